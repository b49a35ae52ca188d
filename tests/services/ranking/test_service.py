"""The ranking service between ids and indices: what it refuses, and what it never lets out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.ranking.app import create
from services.ranking.batcher import Batcher
from services.ranking.service import RankingService, Served
from services.ranking.settings import RankingSettings
from shared.candidate import Candidate, Ranking
from shared.deadline import Deadline
from shared.errors import (
    BadAnswer,
    BadArtifact,
    BadInput,
    CatalogMismatch,
    GoldenMismatch,
    Overloaded,
    UnknownRanker,
)
from shared.history import History
from shared.wire.base import EXPLAINED
from shared.wire.inner import ModelCard, RankRequest
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
    own = [item.ranker_score for item in found.items]
    assert own == sorted(own, key=lambda score: -(score or 0))
    assert None not in own


class LikesSequels(fakes.FakeRanker):
    """Item n scores 1 more for each history item n - 1, and 0.25 less for item n - 2."""

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        self.batches.append(len(histories))
        return [
            Ranking(tuple(sorted((self._score(h, c) for c in one), key=lambda c: -c.score)))
            for h, one in zip(histories, candidates, strict=True)
        ]

    @staticmethod
    def _score(history: History, candidate: Candidate) -> Candidate:
        before = history.items.count(candidate.item - 1) - 0.25 * history.items.count(candidate.item - 2)
        return Candidate(candidate.item, before)


async def test_the_reason_is_what_the_score_falls_without() -> None:
    service = fakes.ranking_service(CATALOG, LikesSequels())
    found = await service.rank(asked("i7", "i9", history=["i6", "i8", "i3"], explain=True), soon())
    service.close()
    reasons = {item.item_id: item.because for item in found.items}
    assert [(r.item_id, r.weight) for r in reasons["i9"] or ()] == [("i8", 1.0)]
    assert [(r.item_id, r.weight) for r in reasons["i7"] or ()] == [("i6", 1.0)]


async def test_the_histories_of_an_explanation_run_as_batches() -> None:
    ranker = fakes.FakeRanker(seconds=0.02)
    service = fakes.ranking_service(CATALOG, ranker)
    await service.rank(asked(history=[f"i{n}" for n in range(20, 40)], explain=True), soon())
    service.close()
    assert sum(ranker.batches) == 1 + EXPLAINED
    assert len(ranker.batches) <= 3


async def test_reasons_that_do_not_come_in_time_do_not_cost_the_ranking() -> None:
    class Slow(fakes.FakeRanker):
        def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
            if self.batches:
                stalled.wait(5)
            return super().rank(histories, candidates)

    stalled, service = threading.Event(), fakes.ranking_service(CATALOG, Slow())
    deadline = Deadline.after_ms(400)
    found = await service.rank(asked(history=["i6", "i8", "i3"], explain=True), deadline)
    assert not deadline.expired
    stalled.set()
    service.close()
    assert [item.item_id for item in found.items] == ["i9", "i8", "i7"]
    assert {item.because for item in found.items} == {None}


async def test_a_ranker_of_few_candidates_ranks_the_first_and_the_others_stay_below() -> None:
    class Two(LikesSequels):
        max_candidates = 2

    service = fakes.ranking_service(CATALOG, Two())
    given = [{"item_id": f"i{n}", "score": score} for n, score in ((3, 5.0), (9, 4.5), (8, 4.0), (7, 4.25), (5, 1.0))]
    found = await service.rank(asked(candidates=given, history=["i8"], explain=True), soon())
    service.close()
    assert [item.item_id for item in found.items] == ["i9", "i3", "i8", "i7", "i5"]
    assert [item.score for item in found.items] == [1.0, 0.0, -0.5, -0.5, -3.75]
    assert [item.because for item in found.items[1:]] == [[], [], [], []]


async def test_a_ranker_without_weight_is_not_asked_for_reasons() -> None:
    ranker = fakes.FakeRanker()
    service = fakes.ranking_service(CATALOG, ranker, blend=0.0)
    found = await service.rank(asked(history=["i6", "i8"], explain=True), soon())
    service.close()
    assert [item.because for item in found.items] == [[], [], []]
    assert sum(ranker.batches) == 1


async def test_without_being_asked_nothing_is_explained() -> None:
    service = fakes.ranking_service(CATALOG)
    found = await service.rank(asked(), soon())
    service.close()
    assert [item.because for item in found.items] == [None, None, None]


async def test_an_explanation_that_fails_leaves_the_ranking() -> None:
    class Choosy(fakes.FakeRanker):
        def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
            if any(len(history) < 2 for history in histories):
                raise ValueError("too short")
            return super().rank(histories, candidates)

    service = fakes.ranking_service(CATALOG, Choosy())
    found = await service.rank(asked(history=["i1", "i2"], explain=True), soon())
    service.close()
    assert [item.item_id for item in found.items] == ["i9", "i8", "i7"]
    assert found.items[0].because is None


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
        lambda good: Ranking(good.candidates, unblended=(float("-inf"), 0.0, 0.0)),
        lambda good: Ranking(good.candidates, unblended=(0.0, 0.0)),
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


def beside(batcher: Batcher, test: Callable[[], None]) -> RankingService:
    card = ModelCard(name="llamarec@0000bbbb", method="llamarec", catalog="c")
    return RankingService(CATALOG, {"llamarec": Served(fakes.FakeRanker(), card, test)}, batcher)


async def test_a_self_test_beside_live_requests_runs_where_the_models_do() -> None:
    batcher, threads = Batcher(max_queue=4, max_batch=8), []
    service = beside(batcher, lambda: threads.append(threading.current_thread().name))
    assert service.why_not_ready() is not None
    await service.self_test_in_turn()
    assert (threads, service.why_not_ready()) == (["ranking"], None)
    service.close()


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(GoldenMismatch("off by 3"), GoldenMismatch), (RuntimeError("out of memory"), BadArtifact)],
)
async def test_a_self_test_that_fails_beside_live_requests_stops_no_worker(
    fault: Exception, raised: type[BadArtifact]
) -> None:
    def fail() -> None:
        raise fault

    batcher = Batcher(max_queue=4, max_batch=8)
    service, live = beside(batcher, fail), fakes.ranking_service(CATALOG, batcher=batcher)
    with pytest.raises(raised):
        await service.self_test_in_turn()
    assert service.why_not_ready() is not None
    assert (await live.rank(asked(), soon())).items
    live.close()


class Held(fakes.FakeRanker):
    """Ranks once it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        assert self.go.wait(10)
        return super().rank(histories, candidates)


@pytest.fixture
async def full() -> AsyncIterator[tuple[Held, Batcher]]:
    """One request runs and one waits, as many as may."""
    ranker, batcher = Held(), Batcher(max_queue=1, max_batch=1)
    live = fakes.ranking_service(CATALOG, ranker, batcher=batcher)
    asking = []
    for waiting in (0, 1):
        asking.append(asyncio.create_task(live.rank(asked(), Deadline.after_ms(60_000))))
        await asyncio.sleep(0.05)
        while batcher.waiting != waiting:  # noqa: ASYNC110  the worker has no event for it
            await asyncio.sleep(0.01)
    yield ranker, batcher
    ranker.go.set()
    await asyncio.gather(*asking)
    live.close()


async def test_a_self_test_waits_for_room_among_live_requests(full: tuple[Held, Batcher]) -> None:
    ranker, batcher = full
    done: list[bool] = []
    testing = asyncio.create_task(beside(batcher, lambda: done.append(True)).self_test_in_turn())
    await asyncio.sleep(0.05)
    assert not testing.done()
    ranker.go.set()
    await testing
    assert done == [True]


async def test_a_self_test_that_never_finds_room_says_so(
    full: tuple[Held, Batcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.ranking.service.TEST_WITHIN_MS", 24)
    with pytest.raises(Overloaded, match="Ask again"):
        await beside(full[1], lambda: None).self_test_in_turn()
