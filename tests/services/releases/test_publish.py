"""Publishing: content names, nothing twice, and refusals that leave the registry as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from services.releases.publish import publish
from shared.artifact import MANIFEST
from shared.errors import BadArtifact, BadInput, CatalogMismatch, ChecksumMismatch
from shared.registry import ARTIFACTS, Registry
from tests.services.releases import files


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def artifacts(registry: Registry) -> list[str]:
    return sorted(path.name for path in (registry.folder / ARTIFACTS).iterdir())


def test_a_release_is_whole_and_named_by_its_content(registry: Registry, tmp_path: Path) -> None:
    made = publish(registry, *files.folders(tmp_path))
    assert registry.check(made.id) == made
    assert [part.name.partition("@")[0] for part in made.parts] == ["data", "lrurec", "llamarec", "collm"]
    again = publish(registry, *files.folders(tmp_path / "again"))
    assert again == made
    assert len(artifacts(registry)) == 4


def test_what_two_releases_share_is_kept_once(registry: Registry, tmp_path: Path) -> None:
    data, retriever, rankers = files.folders(tmp_path)
    publish(registry, data, retriever, rankers, "both")
    publish(registry, data, retriever, rankers[:1], "one")
    publish(registry, data, retriever, (), "none")
    assert len(artifacts(registry)) == 4
    assert registry.ids() == ["both", "none", "one"]


def test_equal_weights_of_another_catalogue_stand_beside_the_first(registry: Registry, tmp_path: Path) -> None:
    """As when a title was corrected and the training gave the same."""
    first = publish(registry, *files.folders(tmp_path / "first"), "first")
    for name in ("data", "lrurec"):
        shutil.copytree(tmp_path / "first" / name, tmp_path / "second" / name)
        path = tmp_path / "second" / name / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | {"catalog_fingerprint": "e" * 64}))
    second = publish(registry, tmp_path / "second" / "data", tmp_path / "second" / "lrurec", (), "second")
    assert second.retriever.name.startswith(first.retriever.name + ".")
    for name in ("first", "second"):
        registry.check(name)


@pytest.mark.parametrize("name", [MANIFEST, "weights"])
def test_publishing_again_mends_what_was_damaged(name: str, registry: Registry, tmp_path: Path) -> None:
    folders = files.folders(tmp_path)
    made = publish(registry, *folders)
    place = registry.place(made.retriever)
    path = (
        place / MANIFEST if name == MANIFEST else next(p for p in place.iterdir() if p.is_file() and p.name != MANIFEST)
    )
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BadArtifact):
        registry.check(made.id)
    assert publish(registry, *folders) == made
    assert registry.check(made.id) == made


@pytest.mark.parametrize("name", ["", "Monday", "../up", "a" * 65, "local"])
def test_a_name_that_cannot_be_is_refused(name: str, registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--id"):
        publish(registry, *files.folders(tmp_path), name)
    assert not registry.folder.exists()


def test_a_name_that_is_taken_is_refused(registry: Registry, tmp_path: Path) -> None:
    made = publish(registry, *files.folders(tmp_path / "a"), "monday")
    with pytest.raises(BadInput, match="another release"):
        publish(registry, *files.folders(tmp_path / "b", b"other"), "monday")
    assert registry.check("monday") == made


def test_what_does_not_fit_together_is_refused(registry: Registry, tmp_path: Path) -> None:
    data, retriever, rankers = files.folders(tmp_path)
    foreign = files.artifact(tmp_path / "foreign", "ranker", "llara", catalog="f" * 64)
    with pytest.raises(CatalogMismatch, match="llara"):
        publish(registry, data, retriever, [*rankers, foreign])
    with pytest.raises(BadInput, match="two rankers are both 'collm'"):
        publish(registry, data, retriever, [rankers[1], rankers[1]])
    with pytest.raises(BadArtifact, match="where a data is needed"):
        publish(registry, retriever, retriever, rankers)
    (retriever / "weights.bin").write_bytes(b"changed")
    with pytest.raises(ChecksumMismatch):
        publish(registry, data, retriever, rankers)
    assert not registry.folder.exists()


def test_recllm_may_be_the_first_stage(registry: Registry, tmp_path: Path) -> None:
    data, _, _ = files.folders(tmp_path)
    both = files.artifact(tmp_path / "recllm", "ranker", "cllm4rec")
    made = publish(registry, data, both, [both])
    assert made.retriever == made.rankers[0]
    registry.check(made.id)
