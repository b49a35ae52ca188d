"""What is asked of both stages, and the cache keys of its answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from services.gateway.cache.keys import Kind, Parts, Retrieved, cache_key, digest
from services.gateway.loaded import Loaded
from services.gateway.people import Person
from shared.wire.base import RankerName

USUAL_HISTORY = 200
"""Digests of longer ones are not kept at hand: their items would fill the memory."""
KNOWS_USERS = frozenset({"recllm", "collm", "tallrec"})
"""Rankers, and RecLLM as the first stage, whose answer depends on who asks, beside the history."""


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that a cache key must tell apart, but the models."""

    person: Person
    ranker: RankerName | None
    k: int
    categories: tuple[str, ...] = ()
    metadata: bool = False
    vectors: bool = False
    explain: bool = False
    given: tuple[str, ...] = ()
    """The caller's own candidates, distinct; retrieval finds them where there are none."""
    named: bool = True
    """Whether the caller named the ranker: only then is it the caller's mistake when there is none of that name."""

    @property
    def carries(self) -> tuple[Literal["metadata", "vectors"], ...]:
        match self.metadata, self.vectors:
            case True, True:
                return "metadata", "vectors"
            case True, False:
                return ("metadata",)
            case False, True:
                return ("vectors",)
        return ()


def list_key(tenant: str, release: str, question: Question, loaded: Loaded) -> str | None:
    """Of the list that answers. None while it is not known what the services have loaded."""
    name, retriever = question.ranker or loaded.default, loaded.retriever
    card = loaded.rankers.get(name or "")
    if retriever is None or (card is None and name != "retrieval"):
        return None
    person = question.person
    usual = len(person.history) + len(person.seen) <= USUAL_HISTORY
    kind: Kind = "explained" if question.explain else "ranking" if card else "retrieval"
    return cache_key(
        Parts(
            tenant=tenant,
            release=release,
            kind=kind,
            history=(_of_history if usual else _of_history.__wrapped__)(person.history, person.seen),
            candidates=Retrieved(
                retriever=retriever.name,
                index=retriever.catalog,
                categories=frozenset(question.categories),
                k=question.k,
            ),
            given=digest(question.given) if question.given else None,
            ranker=card.name if card else "",
            labels=card.labels if card else "",
            template=card.template if card else "",
            user_id=person.known_as if KNOWS_USERS & {name, retriever.method} else None,
            carries=question.carries,
        )
    )


def last_key(tenant: str, release: str, question: Question, default: RankerName | None) -> str | None:
    """Where the user's latest ranking of this shape lies, whatever the history was then."""
    if question.person.user_id is None or question.given:
        return None
    return cache_key(
        Parts(
            tenant=tenant,
            kind="last",
            release=release,
            history=b"",
            candidates=Retrieved(retriever="", index="", categories=frozenset(question.categories), k=question.k),
            ranker=question.ranker or default or "",
            user_id=question.person.user_id,
            carries=question.carries,
        )
    )


@lru_cache(maxsize=1024)
def _of_history(history: tuple[str, ...], seen: frozenset[str]) -> bytes:
    """Who asks again without an event in between has the same."""
    return digest([*history, "", *sorted(seen)])
