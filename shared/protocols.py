"""The two stages, as everything else sees them. Batch first: one request is a batch of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from shared.candidate import Candidate, Ranking
from shared.history import History


@dataclass(frozen=True, slots=True)
class Reused:
    """Since the start. tokens: of prompts, computed or taken from a cache. vectors: of users, out of a cache. bytes:
    held now."""

    tokens_computed: int = 0
    tokens_reused: int = 0
    vectors: int = 0
    bytes: int = 0


@runtime_checkable
class Retriever(Protocol):
    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        """The k best items per history, best first; fewer only where the catalogue has no more.

        `exclude` holds one list of catalogue indices per history that must not come back.
        A history's own items are excluded by the caller through `exclude`, never silently.
        """
        ...


@runtime_checkable
class ServedRetriever(Retriever, Protocol):
    """What a service needs beside: the scores of given items, and their vectors."""

    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[list[Candidate]]:
        """The given items of each history, best first, with the scores that `retrieve` would have given them."""
        ...

    def vectors(self, items: Sequence[int]) -> np.ndarray:
        """len(items) x D float32 of length 1 (or 0, where nothing is known): alike items have alike vectors."""
        ...


@runtime_checkable
class Ranker(Protocol):
    max_candidates: int

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        """The same candidates re-scored, best first; ties keep the order they came in.

        Raises BadInput for more than `max_candidates` candidates in one list.
        """
        ...


@runtime_checkable
class TellsTokens(Protocol):
    """A ranker that knows beforehand how much it will have to read."""

    def tokens(self, history: History, candidates: Sequence[Candidate]) -> int:
        """Of the whole prompt, what may be cached included."""
        ...


@runtime_checkable
class TellsReuse(Protocol):
    """A ranker that counts what it did not compute anew."""

    def reused(self) -> Reused: ...
