"""Who is being answered by a release that is unloaded has the answer all the same; then it leaves memory."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Sequence

import pytest

from services.ranking.batcher import Batcher
from services.ranking.releases import RankingReleases
from services.retrieval.releases import RetrievalReleases
from services.retrieval.service import RetrievalService
from shared.candidate import Candidate, Ranking
from shared.deadline import Deadline
from shared.errors import ReleaseNotLoaded
from shared.history import History
from shared.wire.inner import ModelCard, RankRequest, RetrieveRequest
from tests import fakes
from tests.services.releases.memory import gone

pytestmark = pytest.mark.anyio
CATALOG = fakes.catalog()


class Gate:
    """Both models wait at it."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.go.wait(10)


class SlowRetriever(fakes.FakeRetriever):
    def __init__(self, gate: Gate) -> None:
        super().__init__(len(CATALOG))
        self._gate = gate

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        self._gate.wait()
        return super().retrieve(histories, k, exclude)


class SlowRanker(fakes.FakeRanker):
    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        self._gate.wait()
        return super().rank(histories, candidates)


def soon() -> Deadline:
    return Deadline.after_ms(10_000)


async def test_a_retrieval_in_flight_is_answered() -> None:
    gate, card = Gate(), ModelCard(name="lrurec@1", method="lrurec", catalog="c")
    host = RetrievalReleases(
        fakes.retrieval_service(CATALOG),
        "one",
        lambda release: RetrievalService(CATALOG, SlowRetriever(gate), fakes.FakePopularity(len(CATALOG)), card),
    )
    await host.load("two", soon())
    there = weakref.ref(host.of("two"))
    asking = asyncio.create_task(host.port("two").retrieve(RetrieveRequest(history=["i1"], k=5), soon()))
    await asyncio.to_thread(gate.reached.wait, 10)
    await host.unload("two", soon())
    with pytest.raises(ReleaseNotLoaded):
        await host.port("two").retrieve(RetrieveRequest(history=["i1"], k=5), soon())
    gate.go.set()
    assert len((await asking).items) == 5
    del asking
    await gone(there)
    host.close()


async def test_a_ranking_in_flight_is_answered() -> None:
    gate, batcher = Gate(), Batcher(max_queue=8, max_batch=2)
    host = RankingReleases(
        fakes.ranking_service(CATALOG, batcher=batcher),
        "one",
        lambda release: fakes.ranking_service(CATALOG, SlowRanker(gate), batcher=batcher),
    )
    await host.load("two", soon())
    there = weakref.ref(host.of("two")._rankers["llamarec"].ranker)
    asked = RankRequest.model_validate(
        {"history": ["i1"], "candidates": [{"item_id": "i2", "score": 1}], "catalog": CATALOG.fingerprint()}
    )
    asking = [asyncio.create_task(host.port("two").rank(asked, soon())) for _ in range(3)]
    await asyncio.to_thread(gate.reached.wait, 10)
    await host.unload("two", soon())
    gate.go.set()
    assert [len(answer.items) for answer in await asyncio.gather(*asking)] == [1, 1, 1]
    assert (await host.port(None).rank(asked, soon())).items
    del asking
    await gone(there)
    host.close()
