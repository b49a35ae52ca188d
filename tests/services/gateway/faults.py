"""One gateway in process whose Redis, retrieval and ranking each fail in one way, from a moment on.

Redis fails at its connections, so that the real state and the real cache meet the fault.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from redis.exceptions import OutOfMemoryError, ResponseError

from services.gateway.cache.breaker import Breaker, guarded
from services.gateway.cache.layered import Layered
from services.gateway.cache.redis import RELEASE, RedisCache
from services.gateway.policy import Policy
from services.gateway.ports import Appended, ItemStates, Record, Snapshot, Who
from services.gateway.resilience import ResilientRanking, ResilientRetrieval
from services.gateway.state.connections import Connections
from services.gateway.state.memory import MemoryState
from services.gateway.state.redis import RedisState
from services.gateway.state.scripts import Command
from services.retrieval.service import RetrievalService
from shared.deadline import Deadline
from shared.errors import BadAnswer, CatalogMismatch, Unavailable
from shared.wire.inner import (
    RankAnswer,
    RankedItem,
    RankRequest,
    RetrieveAnswer,
    RetrievedItem,
    RetrieveRequest,
    ScoreRequest,
)
from shared.wire.users import Event, ItemState
from tests import fakes
from tests.services.gateway.parts import Parts

Fault = Literal["none", "down", "slow", "garbage"]
FAULTS: tuple[Fault, ...] = ("none", "down", "slow", "garbage")
Answer = TypeVar("Answer")
FOR_EVER_S = 3600.0
REDIS_TIMEOUT_S = 0.05

REDIS_SAYS: tuple[Any, ...] = (
    b"\x00\xffnonsense",
    b"",
    7,
    0,
    None,
    [],
    [b"1"],
    [b"many", b"i1", b"i2"],
    [b"1", b"no-arrival", b""],
    [b"1", b"\xff\xfe", b"\xff"],
    ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    ResponseError("LOADING Redis is loading the dataset in memory"),
)


def _item(item_id: str, **rest: Any) -> RetrievedItem:
    return RetrievedItem(item_id=item_id, score=1e9, **rest)


def _with(found: RetrieveAnswer, items: Sequence[RetrievedItem]) -> RetrieveAnswer:
    return found.model_copy(update={"items": list(items)})


RETRIEVAL_SAYS: dict[str, Callable[[RetrieveAnswer], RetrieveAnswer]] = {
    "unreadable": lambda found: _raise(BadAnswer("not JSON")),
    "nothing": lambda found: _with(found, []),
    "fewer": lambda found: _with(found, found.items[:3]),
    "duplicates": lambda found: _with(found, [item for item in found.items[: -len(found.items) // 2] for _ in "12"]),
    "what the user has": lambda found: _with(found, [_item("i3"), _item("i7"), *found.items]),
    "what nobody knows": lambda found: _with(found, [_item("ghost1"), _item("ghost2"), *found.items[2:]]),
    "odd vectors": lambda found: _with(found, [_item("i59", vector="AAAA"), _item("i58", vector="!"), *found.items]),
    "another catalogue": lambda found: found.model_copy(update={"catalog": "0" * 64}),
    "popularity": lambda found: found.model_copy(update={"source": "popularity"}),
}
"""What can be read, but one. The other half of what is wrong with it nobody can tell."""
RANKING_SAYS: dict[str, Callable[[RankAnswer], RankAnswer]] = {
    "unreadable": lambda ranked: _raise(BadAnswer("NaN")),
    "another catalogue": lambda ranked: _raise(CatalogMismatch("ours is another")),
    "nothing": lambda ranked: ranked.model_copy(update={"items": []}),
    "fewer": lambda ranked: ranked.model_copy(update={"items": ranked.items[1:]}),
    "duplicates": lambda ranked: ranked.model_copy(update={"items": [ranked.items[0], *ranked.items[:-1]]}),
    "others": lambda ranked: ranked.model_copy(
        update={"items": [RankedItem(item_id="evil", score=1.0), *ranked.items[1:]]}
    ),
}


def _raise(error: Exception) -> Any:
    raise error


@dataclass(frozen=True)
class Faults:
    """The seconds are what slow takes; the rest says which garbage."""

    redis: Fault = "none"
    retrieval: Fault = "none"
    ranking: Fault = "none"
    slow_s: float = FOR_EVER_S
    redis_says: Any = None
    retrieval_says: str = "unreadable"
    ranking_says: str = "unreadable"


class FaultyRedis(Connections):
    """While whole, the few commands that the cache sends, in memory."""

    def __init__(self) -> None:
        super().__init__("redis://127.0.0.1:1", REDIS_TIMEOUT_S)
        self.faults = Faults()
        self._kept: dict[Any, Any] = {}

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        match self.faults.redis:
            case "down":
                raise ConnectionRefusedError
            case "slow":
                await asyncio.sleep(self.faults.slow_s)
            case "garbage":
                return [self.faults.redis_says for _ in commands]
        return [self._reply(*command) for command in commands]

    def _reply(self, name: Any, *words: Any) -> Any:
        match name, *words:
            case "GET", key:
                return self._kept.get(key)
            case "SET", key, value, "PX", _:
                self._kept[key] = value
                return b"OK"
            case "UNLINK", *keys:
                return sum(self._kept.pop(key, None) is not None for key in keys)
            case "EVAL", script, 1, key, owner, *_:
                if self._kept.get(key, owner) != owner:
                    return 0
                self._kept.pop(key, None)
                if script != RELEASE:
                    self._kept[key] = owner
                return 1
        raise AssertionError(f"{name} is no command of the cache")


class FaultyState:
    """Memory while Redis is whole or only slow; the real store over the faulty connections otherwise."""

    def __init__(self, redis: FaultyRedis, connections: Connections) -> None:
        self._redis, self._connections = redis, connections
        self._whole, self._broken = MemoryState(), RedisState(connections)

    async def _store(self) -> MemoryState | RedisState:
        if self._redis.faults.redis == "slow":
            await self._connections.ask([])
            return self._whole
        return self._whole if self._redis.faults.redis == "none" else self._broken

    async def read(self, tenant: str, who: Sequence[Who]) -> Snapshot:
        return await (await self._store()).read(tenant, who)

    async def append(self, tenant: str, events: Sequence[Event], now_ms: int) -> Appended:
        return await (await self._store()).append(tenant, events, now_ms)

    async def erase(self, tenant: str, user_id: str) -> int:
        return await (await self._store()).erase(tenant, user_id)

    async def set_item(self, tenant: str, item_id: str, state: ItemState) -> int:
        return await (await self._store()).set_item(tenant, item_id, state)

    async def items(self, tenant: str) -> ItemStates:
        return await (await self._store()).items(tenant)

    async def record(self, tenant: str, user_id: str | None, record: Record) -> None:
        await (await self._store()).record(tenant, user_id, record)

    async def aclose(self) -> None:
        await self._broken.aclose()


class FaultyRetrieval(fakes.AnsweringRetrieval):
    def __init__(self, whole: RetrievalService) -> None:
        super().__init__()
        self._whole = whole
        self.faults = Faults()

    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer:
        return await self._through(self._whole.retrieve(request, deadline))

    async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
        return await self._through(self._whole.score(request, deadline))

    async def _through(self, work: Any) -> RetrieveAnswer:
        await _fail(self.faults.retrieval, self.faults.slow_s, work)
        found: RetrieveAnswer = await work
        return RETRIEVAL_SAYS[self.faults.retrieval_says](found) if self.faults.retrieval == "garbage" else found


class FaultyRanking(fakes.AnsweringRanking):
    def __init__(self) -> None:
        super().__init__()
        self.faults = Faults()

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        work = super().rank(request, deadline)
        await _fail(self.faults.ranking, self.faults.slow_s, work)
        ranked = await work
        return RANKING_SAYS[self.faults.ranking_says](ranked) if self.faults.ranking == "garbage" else ranked


async def _fail(fault: Fault, slow_s: float, work: Any) -> None:
    """Before `work` begins, which is then never awaited."""
    try:
        if fault == "down":
            raise Unavailable("connection refused")
        if fault == "slow":
            await asyncio.sleep(slow_s)
    except BaseException:
        work.close()
        raise


@dataclass
class World:
    """Whole until `fail`. `retrieval` is shared: it holds no state, but a thread."""

    retrieval: RetrievalService
    histories: fakes.FakeHistories
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        self._redis, self._retrieval, self._ranking = FaultyRedis(), FaultyRetrieval(self.retrieval), FaultyRanking()
        redis = guarded(self._redis, Breaker("the store"))
        far = RedisCache(redis, random.Random(0), max_entry_bytes=1 << 18)
        self.parts = Parts(
            ResilientRetrieval(self._retrieval, failures=5, open_s=2, hedge=True),
            ResilientRanking(self._ranking, failures=5, open_s=2),
            self.policy,
            self.histories,
            FaultyState(self._redis, redis),
            Layered(far, max_bytes=1 << 24, max_entry_bytes=1 << 20, believe_s=0),
        )

    def fail(self, faults: Faults) -> None:
        self._redis.faults = self._retrieval.faults = self._ranking.faults = faults

    async def aclose(self) -> None:
        await self.parts.flights.aclose()
        await self.parts.records.aclose()
        await self.parts.cache.aclose()
        await self.parts.state.aclose()
