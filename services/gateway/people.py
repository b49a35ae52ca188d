"""Who asks, as far as the stores know: history, what must not come again, and the state of the items."""

from __future__ import annotations

from dataclasses import dataclass

from services.gateway.course import Course, within
from services.gateway.ports import Histories, ItemStates, State, Stored, Who
from services.gateway.state.merge import merged
from services.http.tracing import span
from shared.deadline import Deadline
from shared.errors import DeadlineExceeded, TandemError, Unavailable

STORE_MS = 100.0
"""No store is waited for longer, nor for more than half of what is left: there are rungs below."""


@dataclass(frozen=True, slots=True)
class Person:
    """user_id: as the tenant names them. known_as: the user of the data folder, as models may have learnt them: of the
    home tenant alone, and not erased. seen: what must not come again beside the history."""

    user_id: str | None
    known_as: str | None
    history: tuple[str, ...]
    seen: frozenset[str]
    states: ItemStates


class People:
    """`home` is the tenant whose users the data folder holds.  far: whether one has to wait for the state; a time
    limit is a tenth of what an answer out of the cache costs."""

    def __init__(self, histories: Histories, state: State, home: str = "default", far: bool = True) -> None:
        self._histories = histories
        self._state = state
        self._home = home
        self._far = far
        self._states: dict[str, ItemStates] = {}

    async def read(
        self,
        course: Course,
        user_id: str | None,
        session_id: str | None,
        history: list[str] | None,
        after: str | None = None,
    ) -> Person:
        """Raises Unavailable or DeadlineExceeded only where the request allows no degraded answer."""
        who = [Who(kind, id_) for kind, id_ in (("user", user_id), ("session", session_id)) if id_ is not None]
        stored: tuple[Stored, ...] = ()
        try:
            with span("state"):
                asked = self._state.read(course.tenant, who)
                snapshot = await (within(_patience(course), asked) if self._far else asked)
            stored = snapshot.stored
            await self._refresh(course, snapshot.items_version)
            if after and stored and stored[0].version < int(after, 16):
                late = f"the events up to {after} are not in this store yet; it holds {stored[0].version:x}"
                course.degrade("stale_history", Unavailable(late))
        except (Unavailable, DeadlineExceeded) as error:
            course.degrade("state_unavailable", error)
        base = await self._base(course.tenant, user_id)
        found, seen = merged(base, stored)
        strange = course.tenant != self._home or any(one.erased for one in stored)
        known_as = None if strange else user_id
        states = self._states.get(course.tenant, ItemStates())
        if history is None:
            return Person(user_id, known_as, found, seen, states)
        return Person(user_id, known_as, tuple(history), seen | frozenset(found), states)

    async def _base(self, tenant: str, user_id: str | None) -> tuple[str, ...] | None:
        if user_id is None or tenant != self._home:
            return None
        try:
            return await self._histories.get(user_id)
        except TandemError:
            return None

    async def _refresh(self, course: Course, version: int) -> None:
        """A second question only after a change."""
        if self._states.get(course.tenant, ItemStates()).version != version:
            asked = self._state.items(course.tenant)
            self._states[course.tenant] = await within(_patience(course), asked)


def _patience(course: Course) -> Deadline:
    return course.deadline.at_most_ms(min(STORE_MS, course.deadline.remaining_ms() / 2))
