"""From artifact folders to services: names, doubles and refusals, before anything listens."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client import CollectorRegistry

from services import cli
from services.loading import batcher, card, ranking_service
from services.ranking.service import RankingService
from services.ranking.settings import RankingSettings
from shared.artifact import Manifest
from shared.catalog import Catalog
from shared.deadline import Deadline
from shared.errors import BadInput, GoldenMismatch
from tests import fakes

pytestmark = pytest.mark.anyio
CATALOG = fakes.catalog()


@dataclass
class Loaded:
    manifest: Manifest
    ranker: fakes.FakeRanker

    def self_test(self) -> None:
        if self.manifest.method == "llara":
            raise GoldenMismatch("llara does not reproduce its golden score")


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that makes a ranker of each folder's name."""
    registry = ModuleType("ranker.registry")

    def load(folder: Path, catalog: Catalog, *where: object) -> Loaded:
        return Loaded(Manifest(kind="ranker", method=folder.name), fakes.FakeRanker())

    registry.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ranker.registry", registry)


def folders(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def served(names: tuple[str, ...], settings: RankingSettings | None = None) -> RankingService:
    settings = settings or RankingSettings()
    return ranking_service(folders(*names), CATALOG, settings, batcher(settings, CollectorRegistry()))


async def test_the_first_ranker_is_the_default() -> None:
    service = served(("collm", "llamarec"))
    models = await service.models(Deadline.after_ms(1000))
    service.close()
    assert models.default == "collm"
    assert service.why_not_ready() == "the ranking service is stopping"


async def test_the_environment_may_name_another_default() -> None:
    service = served(("collm", "llamarec"), RankingSettings(default_ranker="llamarec"))
    assert (await service.models(Deadline.after_ms(1000))).default == "llamarec"
    service.close()


@pytest.mark.parametrize(
    ("names", "default", "match"),
    [(("collm", "other/collm"), None, "two rankers"), (("collm",), "llara", "TANDEM_DEFAULT_RANKER")],
)
def test_a_configuration_that_cannot_be_served_is_refused(
    names: tuple[str, ...], default: str | None, match: str
) -> None:
    with pytest.raises(BadInput, match=match):
        served(names, RankingSettings(default_ranker=default))


def test_a_ranker_that_fails_its_self_test_stops_the_start() -> None:
    with pytest.raises(GoldenMismatch):
        served(("llara",))


def test_cllm4rec_is_served_as_recllm() -> None:
    manifest = Manifest(kind="ranker", method="cllm4rec", metrics={"ndcg@10": 0.3, "by_band": {"a": 1}})
    shown = card(manifest)
    assert (shown.method, shown.name) == ("recllm", f"recllm@{manifest.version}")
    assert shown.metrics == {"ndcg@10": 0.3}


@pytest.mark.parametrize("service", ["all", "retrieval", "ranking", "gateway"])
def test_a_folder_that_is_no_artifact_refuses_to_start(
    service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.http.logs.configure", lambda level: None)
    model = {"all": "--retriever", "retrieval": "--retriever", "ranking": "--ranker"}.get(service)
    words = ["serve", service, "--data", str(tmp_path), *([model, str(tmp_path)] if model else [])]
    assert cli.main(words) == 3
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "value"), [("TANDEM_RETRIEVAL_URL", "nowhere"), ("TANDEM_DEFAULT_TIMEOUT_MS", "soon")]
)
def test_a_wrong_environment_variable_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    assert cli.main(["serve", "gateway"]) == 2
    assert f"{variable} is '{value}'" in capsys.readouterr().err


def test_a_ranking_service_needs_a_ranker(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "ranking", "--data", "x"]) == 2
    assert "--ranker" in capsys.readouterr().err
