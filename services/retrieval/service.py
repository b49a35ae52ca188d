"""Ids in, ids out: the retriever behind one worker thread, popularity for those without a history."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from services.retrieval.together import Together
from shared.candidate import Candidate
from shared.catalog import Catalog, Item
from shared.deadline import Deadline
from shared.errors import BadAnswer, DeadlineExceeded, Unavailable
from shared.history import History
from shared.protocols import ServedRetriever
from shared.wire.inner import (
    ModelCard,
    ModelList,
    ReleaseCard,
    ResolveAnswer,
    ResolveRequest,
    RetrieveAnswer,
    RetrievedItem,
    RetrieveRequest,
    ScoreRequest,
    pack,
)
from shared.wire.recommend import ItemMetadata
from shared.wire.users import ItemAnswer

if TYPE_CHECKING:
    from retriever.states import States

MAX_BATCH = 32
"""Histories that are encoded and searched for together."""
OUTSIDE_BYTES, BYTES_A_MEMBER = 256 << 20, 72
"""Of what lies outside of categories that were asked for: how much is kept, and what a set takes for each item."""
log = structlog.get_logger()
TOO_LATE = "the request waited for the retriever until its time was over"
_Work = Callable[[], RetrieveAnswer]


class Took(Protocol):
    def __call__(self, work: str, waited_s: float, seconds: float) -> None:
        """What was done (retrieve, score or popular), and the seconds that it waited for the worker and took."""

    def encoded(self, outcome: str) -> None:
        """How one history was: known, advanced or whole; unavailable, where others' states were not to be had."""


class _Nobody:
    def __call__(self, work: str, waited_s: float, seconds: float) -> None: ...
    def encoded(self, outcome: str) -> None: ...


class _Asked(NamedTuple):
    request: RetrieveRequest
    deadline: Deadline
    at: float


class _Wanted(NamedTuple):
    """A request in the catalogue's indices. `missing` are the ids that it does not have."""

    asked: _Asked
    history: History
    banned: list[int]
    missing: list[str]


class RetrievalService:
    """`card` describes the retriever; its name stands in every answer.  states: what the retriever remembers, if it
    does.  max_batch: more histories than these are no quicker together.  prepare: the worker calls it first.

    The gateway's RetrievalPort when both live in one process.
    """

    def __init__(
        self,
        catalog: Catalog,
        retriever: ServedRetriever,
        popularity: ServedRetriever,
        card: ModelCard,
        states: States | None = None,
        max_batch: int = MAX_BATCH,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self._catalog = catalog
        self._retriever = retriever
        self._popularity = popularity
        self._card = card
        self._states = states
        self.took = _Nobody()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="retrieval", initializer=prepare)
        self._together = Together[_Asked, RetrieveAnswer](self._worker, max_batch)
        self._by_title = {item.title: index for index, item in reversed(list(enumerate(catalog.items, start=1)))}
        self._by_category = _by_category(catalog)
        kept = max(1, min(64, OUTSIDE_BYTES // (BYTES_A_MEMBER * max(1, len(catalog)))))
        self._outside = lru_cache(maxsize=kept)(partial(_complement, self._by_category, len(catalog)))

    @property
    def took(self) -> Took:
        return self._took

    @took.setter
    def took(self, took: Took) -> None:
        self._took = took
        if self._states is not None:
            self._states.watch(took.encoded)

    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer:
        """Never an item of the history, nor an excluded one. Raises DeadlineExceeded, or BadAnswer for a NaN and for
        whatever else the retriever does wrong."""
        return await self._together.ask(self._retrieve, _Asked(request, deadline, time.perf_counter()))

    async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
        """The given items, each once, best first. Raises as `retrieve` does."""
        return await self._in_worker("score", lambda: self._score(request), deadline)

    async def resolve(self, request: ResolveRequest, deadline: Deadline) -> ResolveAnswer:
        return ResolveAnswer(item_ids=[self._named(text) for text in request.texts])

    async def popular(self, k: int, deadline: Deadline) -> RetrieveAnswer:
        return await self._in_worker("popular", lambda: self._popular(k), deadline)

    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        item = self._catalog[self._catalog.index(item_id)]
        return ItemAnswer(item_id=item.id, title=item.title, categories=list(item.categories))

    async def models(self, deadline: Deadline) -> ModelList:
        return ModelList(models=[self._card])

    def described(self, release: str) -> ReleaseCard:
        return ReleaseCard(release=release, catalog=self._card.catalog, models=[self._card])

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)
        if self._states is not None:
            self._states.close()

    async def _in_worker(self, name: str, work: _Work, deadline: Deadline) -> RetrieveAnswer:
        asked = time.perf_counter()

        def timed() -> RetrieveAnswer:
            began = time.perf_counter()
            answer = _unless_late(work, deadline)
            self.took(name, began - asked, time.perf_counter() - began)
            return answer

        # A caller who leaves cancels the future, and what has not begun by then never runs.
        return await asyncio.get_running_loop().run_in_executor(self._worker, timed)

    def _retrieve(self, asked: Sequence[_Asked]) -> list[RetrieveAnswer | Exception]:
        """Whoever is late, or whose question cannot be answered, is told so alone."""
        began = time.perf_counter()
        wanted = [_late(one) or self._wanted(one) for one in asked]
        warm = {n: one for n, one in enumerate(wanted) if isinstance(one, _Wanted) and one.history.items}
        found = dict(zip(warm, self._found(list(warm.values())), strict=True))
        answers = [
            one if isinstance(one, Exception) else self._told(one, found.get(n), began) for n, one in enumerate(wanted)
        ]
        seconds = (time.perf_counter() - began) / len(asked)
        for one in asked:
            self.took("retrieve", began - one.at, seconds)
        return answers

    def _wanted(self, asked: _Asked) -> _Wanted:
        request = asked.request
        known, unknown = self._catalog.indices(request.history)
        excluded, unknown_too = self._catalog.indices(request.exclude_item_ids)
        banned = {*known, *excluded}
        if request.categories:
            # Names that no item has are many, and keep nothing out.
            banned |= self._outside(tuple(sorted({*request.categories} & self._by_category.keys())))
        return _Wanted(asked, History(tuple(known), request.user_id), list(banned), [*unknown, *unknown_too])

    def _found(self, wanted: Sequence[_Wanted]) -> list[list[Candidate] | Exception]:
        if not wanted:
            return []
        histories, banned = [one.history for one in wanted], [one.banned for one in wanted]
        k = max(one.asked.request.k for one in wanted)
        try:
            found = self._retriever.retrieve(histories, k, banned)
        except Exception as error:  # one of them may be to blame: then the others have their answer yet
            return [_failed(error)] if len(wanted) == 1 else [one for each in wanted for one in self._found([each])]
        return [one[: each.asked.request.k] for one, each in zip(found, wanted, strict=True)]

    def _told(
        self, wanted: _Wanted, found: list[Candidate] | Exception | None, began: float
    ) -> RetrieveAnswer | Exception:
        request, cold = wanted.asked.request, found is None
        model = self._popularity if cold else self._retriever
        try:
            if found is None:
                [found] = self._popularity.retrieve([wanted.history], request.k, [wanted.banned])
            if isinstance(found, Exception):
                return found
            vectors_of = model if request.vectors else None
            return self._answer(found, cold, wanted.missing, began, request.metadata, vectors_of)
        except Exception as error:
            return _failed(error)

    def _score(self, request: ScoreRequest) -> RetrieveAnswer:
        began = time.perf_counter()
        known, unknown = self._catalog.indices(request.history)
        given, unknown_too = self._catalog.indices(dict.fromkeys(request.item_ids))
        cold = not known
        model = self._popularity if cold else self._retriever
        [found] = model.score([History(tuple(known), request.user_id)], [given])
        return self._answer(found, cold, [*unknown, *unknown_too], began, request.metadata)

    def _named(self, text: str) -> str | None:
        """By id, then by title; the first item of the catalogue where several have that title."""
        known, _ = self._catalog.indices([text.strip()])
        index = known[0] if known else self._by_title.get(text.strip())
        return self._catalog[index].id if index else None

    def _popular(self, k: int) -> RetrieveAnswer:
        began = time.perf_counter()
        [found] = self._popularity.retrieve([History(())], k)
        return self._answer(found, True, [], began, metadata=True)

    def _answer(
        self,
        found: Sequence[Candidate],
        cold: bool,
        unknown: Iterable[str],
        began: float,
        metadata: bool,
        vectors_of: ServedRetriever | None = None,
    ) -> RetrieveAnswer:
        if not all(math.isfinite(candidate.score) for candidate in found):
            raise BadAnswer(f"{self._card.name} scored an item with NaN or infinity")
        items = [_item(self._catalog[candidate.item], candidate.score, metadata) for candidate in found]
        if vectors_of:
            vectors = vectors_of.vectors([candidate.item for candidate in found])
            items = [
                item.model_copy(update={"vector": pack(vector)}) for item, vector in zip(items, vectors, strict=True)
            ]
        return RetrieveAnswer(
            items=items,
            source="popularity" if cold else "retrieval",
            missing_ids=list(dict.fromkeys(unknown)),
            model=f"popularity@{self._card.name.partition('@')[2]}" if cold else self._card.name,
            catalog=self._catalog.fingerprint(),
            elapsed_ms=round((time.perf_counter() - began) * 1000, 3),
        )


def _late(asked: _Asked) -> DeadlineExceeded | None:
    return DeadlineExceeded(TOO_LATE) if asked.deadline.expired else None


def _unless_late(work: _Work, deadline: Deadline) -> RetrieveAnswer:
    if deadline.expired:
        raise DeadlineExceeded(TOO_LATE)
    try:
        return work()
    except Exception as error:
        raise _failed(error) from error


def _failed(error: Exception) -> Exception:
    """What a caller hears. The gateway has rungs below for a retriever that fails, and none for what it does not know:
    an error that a history or a model makes is never the client's."""
    if isinstance(error, BadAnswer | DeadlineExceeded | Unavailable):
        return error
    log.error("retriever failed", exc_info=error)
    return BadAnswer(f"the retriever failed: {type(error).__name__}")


def _complement(by_category: Mapping[str, frozenset[int]], items: int, categories: tuple[str, ...]) -> frozenset[int]:
    """Everything outside the categories; exact for any retriever, at the price of a long list."""
    inside = frozenset[int]().union(*(by_category.get(category, frozenset()) for category in categories))
    return frozenset(range(1, items + 1)) - inside


def _by_category(catalog: Catalog) -> dict[str, frozenset[int]]:
    found: dict[str, list[int]] = {}
    for index, item in enumerate(catalog.items, start=1):
        for category in item.categories:
            found.setdefault(category, []).append(index)
    return {category: frozenset(indices) for category, indices in found.items()}


def _item(item: Item, score: float, metadata: bool) -> RetrievedItem:
    about = ItemMetadata(title=item.title, categories=list(item.categories)) if metadata else None
    return RetrievedItem(item_id=item.id, score=score, metadata=about)
