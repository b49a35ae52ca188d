"""The ranking service between ids and indices: what it refuses, and what it never lets out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.ranking.app import create
from services.ranking.batcher import Batcher
from services.ranking.service import RankingService, Served
from services.ranking.settings import RankingSettings
from shared.candidate import Candidate, Ranking
from shared.deadline import Deadline
from shared.errors import BadAnswer, BadInput, CatalogMismatch, GoldenMismatch, UnknownRanker
from shared.history import History
from shared.wire import ModelCard, RankRequest
from tests import fakes
from tests.services.asgi import client

pytestmark = pytest.mark.anyio
CATALOG = fakes.catalog()


def asked(*items: str, **request: Any) -> RankRequest:
    candidates = [{"item_id": item, "score": 0.0} for item in items or ("i7", "i9", "i8")]
    given = {"history": ["i1", "gone"], "candidates": candidates, "catalog": CATALOG.fingerprint()}
    return RankRequest.model_validate(given | request)


def soon() -> Deadline:
    return Deadline.after_ms(2000)


async def test_candidates_come_back_best_first_with_model_and_times() -> None:
    service = fakes.ranking_service(CATALOG)
    found = await service.rank(asked(), soon())
    service.close()
    assert [item.item_id for item in found.items] == ["i9", "i8", "i7"]
    assert (found.model, found.ranker, found.label_mass) == ("llamarec@0000bbbb", "llamarec", 0.9)
    assert found.rank_ms >= 0


@pytest.mark.parametrize(
    ("request_", "error", "match"),
    [
        (asked(ranker="collm"), UnknownRanker, "llamarec"),
        (asked(catalog="0" * 64), CatalogMismatch, "000000000000"),
        (asked("i1", "nope"), BadInput, "nope"),
        (asked("i1", "i1"), BadInput, "twice"),
    ],
)
async def test_what_cannot_be_ranked_is_refused(request_: RankRequest, error: type[Exception], match: str) -> None:
    service = fakes.ranking_service(CATALOG)
    with pytest.raises(error, match=match):
        await service.rank(request_, soon())
    service.close()


class DistortingRanker(fakes.FakeRanker):
    def __init__(self, distort: Callable[[Ranking], Ranking]) -> None:
        super().__init__()
        self._distort = distort

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        return [self._distort(ranking) for ranking in super().rank(histories, candidates)]


@pytest.mark.parametrize(
    "distort",
    [
        lambda good: Ranking((Candidate(7, float("nan")), *good.candidates[1:])),
        lambda good: Ranking(good.candidates, label_mass=float("nan")),
        lambda good: Ranking(good.candidates, entropy=float("inf")),
        lambda good: Ranking(good.candidates[1:]),
        lambda good: Ranking((good.candidates[0],) * 3),
        lambda good: Ranking((Candidate(50, 1.0), *good.candidates[1:])),
    ],
)
async def test_nonsense_from_a_model_never_gets_out(distort: Callable[[Ranking], Ranking]) -> None:
    service = fakes.ranking_service(CATALOG, DistortingRanker(distort))
    with pytest.raises(BadAnswer):
        await service.rank(asked(), soon())
    service.close()


def test_a_service_with_a_failing_self_test_never_gets_ready() -> None:
    def fail() -> None:
        raise GoldenMismatch("the golden score is 0.3, this model gives 0.2")

    card = ModelCard(name="llamarec@1", method="llamarec", catalog="")
    service = RankingService(CATALOG, {"llamarec": Served(fakes.FakeRanker(), card, fail)}, Batcher(1, 1))
    assert service.why_not_ready()
    with pytest.raises(GoldenMismatch):
        service.self_test()
    assert service.why_not_ready()
    service.close()


async def test_ready_means_tested_and_a_living_worker() -> None:
    service = fakes.ranking_service(CATALOG)
    app = create(RankingSettings(), service, CollectorRegistry())
    async with client(app) as http:
        assert (await http.get("/readyz")).status_code == 200
        service.close()
        assert (await http.get("/readyz")).status_code == 503


async def test_several_rankers_are_listed_with_their_default() -> None:
    cards = {name: ModelCard(name=f"{name}@1", method=name, catalog="") for name in ("llamarec", "collm")}
    rankers = {name: Served(fakes.FakeRanker(), card, lambda: None) for name, card in cards.items()}
    service = RankingService(CATALOG, rankers, Batcher(1, 1))  # type: ignore[arg-type]
    found = await service.models(soon())
    service.close()
    assert [card.method for card in found.models] == ["llamarec", "collm"]
    assert found.default == "llamarec"
