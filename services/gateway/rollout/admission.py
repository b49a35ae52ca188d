"""What a release must show before it answers anybody: loaded at both services, whole, one catalogue, and a first answer
of each of its rankers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.gateway.people import Person
from services.gateway.policy import Policy
from services.gateway.ports import ItemStates
from services.gateway.question import Question
from services.gateway.ranked import RankedList, depth
from services.gateway.rollout.hosts import Hosts
from services.gateway.stack import Build, Stack
from shared.deadline import Deadline
from shared.errors import BadAnswer, BadArtifact, CatalogMismatch, TandemError, Unavailable
from shared.wire.base import MAX_LIMIT, RERANKED, RankerName
from shared.wire.inner import ReleaseCard

LOAD_MS = 600_000.0
"""A language model comes from a disk, or first over the network."""
UNLOAD_MS = 30_000.0
PROOF_MS = 30_000.0
"""For a ranker's first answer, which may be its slowest."""
TRIES = 3
"""What has just been loaded may be slow to answer at first."""
PROBED = 3
"""Popular items in the history of the question that nobody asked."""


class Admission:
    def __init__(self, hosts: Hosts, build: Build, policy: Policy) -> None:
        self._hosts = hosts
        self._build = build
        self._policy = policy

    async def load(self, release: str) -> tuple[ReleaseCard, ReleaseCard]:
        """At both services; what is loaded already is found at once. Raises UnknownRelease, BadArtifact or
        CatalogMismatch, Unavailable or DeadlineExceeded."""
        deadline = Deadline.after_ms(LOAD_MS)
        both = await asyncio.gather(
            self._hosts.retrieval.load(release, deadline),
            self._hosts.ranking.load(release, deadline),
            return_exceptions=True,
        )
        for one in sorted(both, key=lambda one: isinstance(one, Unavailable)):
            if isinstance(one, BaseException):
                raise one
        retrieval, ranking = (one for one in both if isinstance(one, ReleaseCard))
        if retrieval.catalog != ranking.catalog:
            raise CatalogMismatch(
                f"release {release!r} is of the catalogue {retrieval.catalog} at the retrieval service and of "
                f"{ranking.catalog} at the ranking service: let both read one registry"
            )
        if not retrieval.models:
            raise BadArtifact(f"release {release!r} has no retriever at the retrieval service")
        return retrieval, ranking

    async def stack(
        self,
        release: str,
        known: Stack | None = None,
        beside: Stack | None = None,
        drop: Sequence[RankerName] = (),
    ) -> Stack:
        """Loaded, checked, and proven; nothing is answered by it yet. `known`: the one that this gateway has already.
        `beside`: whose rankers it must have, but those to `drop`. Raises as `load` does, and BadAnswer for a first
        answer that is none."""
        retrieval, ranking = await self.load(release)
        if beside is not None:
            self._require_rankers(release, ranking, beside, drop)
        stack = known or self._build(release)
        for _ in range(TRIES):
            await stack.refresh(keep=False)
            if stack.ready:
                break
        else:
            raise Unavailable(f"release {release!r} is loaded, but its services do not answer; try again")
        found = set(stack.models())
        expected = {card.name for card in (*retrieval.models, *ranking.models)}
        if found != expected:
            raise BadAnswer(
                f"release {release!r} was loaded as {', '.join(sorted(expected))}, and answers as "
                f"{', '.join(sorted(found))}: another process answers under this address"
            )
        await self.prove(stack)
        return stack

    def _require_rankers(self, release: str, ranking: ReleaseCard, live: Stack, drop: Sequence[RankerName]) -> None:
        """A request may name any ranker that the live release has, and the operator's default comes without a name."""
        wanted = [*live.loaded.rankers]
        if self._policy.default_ranker not in (None, "retrieval", *wanted):
            wanted.append(str(self._policy.default_ranker))
        had = {card.method for card in ranking.models}
        if gone := [name for name in wanted if name not in had and name not in drop]:
            raise BadArtifact(
                f"release {release!r} lacks {', '.join(gone)}, which requests may name at present: publish it with "
                f'{"them" if len(gone) > 1 else "it"}, or say that you mean it with "drop"'
            )

    async def prove(self, stack: Stack) -> None:
        """One question for each ranker, past the cache. Raises BadAnswer, or what the services raise."""
        popular = stack.popular.list()
        if popular is None or not popular.found.items:
            raise BadAnswer(f"{_named(stack)} has no popular items: its catalogue is empty")
        history = tuple(item.item_id for item in popular.found.items[:PROBED])
        rankers = list(stack.loaded.rankers.values())
        for card in rankers:
            made = await self._ask(stack, history, card.method)  # type: ignore[arg-type]
            if made.found.items and (made.ranked is None or made.ranked.model != card.name):
                raise BadAnswer(f"{_named(stack)} was asked for {card.name}: {_why(made)}")
        if not rankers:
            await self._ask(stack, history, "retrieval")

    async def _ask(self, stack: Stack, history: tuple[str, ...], ranker: RankerName) -> RankedList:
        question = Question(
            person=Person(None, None, history, frozenset(), ItemStates()),
            ranker=ranker,
            k=depth(1, self._policy.spare, MAX_LIMIT + RERANKED),
        )
        made = await stack.ladder.anew(Deadline.after_ms(PROOF_MS), question)
        card = stack.loaded.retriever
        if card is None or made.found.model != card.name or made.found.catalog[:12] != card.catalog:
            raise BadAnswer(
                f"{_named(stack)} retrieves with {made.found.model} of the catalogue {made.found.catalog[:12]}, "
                f"and says that it is {card.name if card else 'nothing'} of {card.catalog if card else 'none'}"
            )
        return made

    async def unload(self, release: str) -> None:
        """Best effort: what stays loaded costs memory, and nothing else."""
        deadline = Deadline.after_ms(UNLOAD_MS)
        hosts = (self._hosts.retrieval, self._hosts.ranking)
        done = await asyncio.gather(*(host.unload(release, deadline) for host in hosts), return_exceptions=True)
        for error in done:
            if isinstance(error, BaseException) and not isinstance(error, TandemError):
                raise error


def _named(stack: Stack) -> str:
    return f"release {stack.release!r}" if stack.release else "what the services started with"


def _why(made: RankedList) -> str:
    details = [detail for _, detail in made.degradation if detail]
    if details:
        return details[0]
    return f"{made.ranked.model} answered" if made.ranked else "nobody ranked"
