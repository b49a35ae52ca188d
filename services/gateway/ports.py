"""What the gateway needs from others. In one process the services themselves fit; over HTTP, remote.py does.

State and cache speak of a tenant first: nothing of one tenant is ever read for another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from shared.deadline import Deadline
from shared.wire.base import Rung
from shared.wire.inner import (
    ModelList,
    RankAnswer,
    RankRequest,
    ReleaseCard,
    ReleaseList,
    ResolveAnswer,
    ResolveRequest,
    RetrieveAnswer,
    RetrieveRequest,
    ScoreRequest,
)
from shared.wire.recommend import Experiment
from shared.wire.users import Event, ItemAnswer, ItemState


class RetrievalPort(Protocol):
    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer: ...

    async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
        """The given items that the catalogue knows, each once, best first."""
        ...

    async def resolve(self, request: ResolveRequest, deadline: Deadline) -> ResolveAnswer: ...

    async def popular(self, k: int, deadline: Deadline) -> RetrieveAnswer:
        """For nobody in particular, with metadata."""
        ...

    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        """Raises UnknownItem."""
        ...

    async def models(self, deadline: Deadline) -> ModelList: ...


class RankingPort(Protocol):
    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        """Raises UnknownRanker, CatalogMismatch, Overloaded, DeadlineExceeded or Unavailable."""
        ...

    async def models(self, deadline: Deadline) -> ModelList: ...


Bound = TypeVar("Bound", RetrievalPort, RankingPort, covariant=True)


class ReleasesPort(Protocol[Bound]):
    """What one inner service has loaded side by side."""

    async def load(self, release: str, deadline: Deadline) -> ReleaseCard:
        """Loads it beside what is there, self-tested; what is loaded already is answered at once. Raises UnknownRelease
        or BadArtifact, and then nothing has changed; Unavailable or DeadlineExceeded, and then nobody knows."""
        ...

    async def unload(self, release: str, deadline: Deadline) -> None:
        """Also where it is not loaded. Never the live one: BadInput."""
        ...

    async def loaded(self, deadline: Deadline) -> ReleaseList: ...

    def port(self, release: str | None) -> Bound:
        """Every call through it is answered by this release alone, or raises ReleaseNotLoaded; None: whatever the
        service started with."""
        ...


class Histories(Protocol):
    """What a data folder knows of its users; read only."""

    async def get(self, user_id: str) -> tuple[str, ...] | None:
        """Item ids, oldest first; None for a user that nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class Who:
    """A user, or an anonymous session."""

    kind: str
    """user or session."""
    id: str


@dataclass(frozen=True, slots=True)
class Stored:
    """What the events of one user or session left, read at one moment.

    items: the history, oldest first, at most MAX_HISTORY.  seen: what else must not come again (dismissed, or fallen
    out of the history).  version: counts the events ever written; 0 for nobody.  erased: a data folder's history of
    this user must not be used either.
    """

    items: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()
    version: int = 0
    erased: bool = False


@dataclass(frozen=True, slots=True)
class ItemStates:
    """Every item whose state is not the default, under one version that any change replaces."""

    version: int = 0
    items: Mapping[str, ItemState] | None = None

    def of(self, item_id: str) -> ItemState | None:
        return self.items.get(item_id) if self.items else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One round trip: who was asked for, in that order, and the version of the item states."""

    stored: tuple[Stored, ...]
    items_version: int


@dataclass(frozen=True, slots=True)
class Record:
    """What was answered, so that later events can be joined to it."""

    recommendation_id: str
    item_ids: tuple[str, ...]
    ranker: str
    rung: Rung
    experiment: Experiment | None = None


class Click(NamedTuple):
    """A recommended item that was taken, by how it was recommended."""

    ranker: str
    rung: Rung
    experiment: Experiment | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """versions: of each user and session after the write.  clicked: the accepted interactions with an item of a known
    recommendation."""

    accepted: int
    duplicates: int
    versions: Mapping[Who, int]
    clicked: Sequence[Click] = ()


class State(Protocol):
    """Users, sessions, item states and recommendation records. Every method is one round trip (`erase` two), atomic per
    user, and raises Unavailable where the store does not answer in time. What `append` returned for is written."""

    async def read(self, tenant: str, who: Sequence[Who]) -> Snapshot: ...

    async def append(self, tenant: str, events: Sequence[Event], now_ms: int) -> Appended:
        """Each event_id once per user; histories in the order of (timestamp, arrival)."""
        ...

    async def erase(self, tenant: str, user_id: str) -> int:
        """Forgets the user; the number of keys that went."""
        ...

    async def set_item(self, tenant: str, item_id: str, state: ItemState) -> int:
        """The new version of the item states."""
        ...

    async def items(self, tenant: str) -> ItemStates: ...

    async def record(self, tenant: str, user_id: str | None, record: Record) -> None: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A cached value; `fresh` is False between its two times to live."""

    value: bytes
    age_s: float
    fresh: bool


class CacheStore(Protocol):
    """Bytes under keys. Never raises for a store that is down: get says None, put and delete do nothing, lease says
    True (better twice than never)."""

    async def get(self, key: str) -> Entry | None: ...

    async def put(self, key: str, value: bytes, fresh_s: float, stale_s: float) -> None:
        """Fresh for `fresh_s`, kept and stale for `stale_s` after that."""
        ...

    async def delete(self, keys: Sequence[str]) -> None: ...

    async def forget(self, prefix: str) -> int:
        """Deletes whatever lies under keys that begin so; how many there were. Raises Unavailable: who must be
        forgotten must not be left over in silence."""
        ...

    async def lease(self, key: str, owner: str, ms: int) -> bool:
        """Whether `owner` is now the one who may make the value of `key`, for `ms` at most."""
        ...

    async def release(self, key: str, owner: str) -> None: ...

    async def aclose(self) -> None: ...
