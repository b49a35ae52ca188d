"""How many requests at once one event loop can answer in time: fewer while it comes late, more while it does not.

A loop that is late gives every request each of its turns late. Beyond what there is of a core, more requests at once
mean that all of them miss their deadlines together, and no bound set beforehand knows how much of a core there is.
"""

from __future__ import annotations

import asyncio

BEAT_S = 0.05
LATE_S = 0.05
FEWEST = 16
FALL = 0.8
RISE = 2


class Pulse:
    """Additive increase, multiplicative decrease, at each beat; it beats while there are requests."""

    def __init__(self, most: int) -> None:
        self.limit = self._most = most
        self.inside = 0
        self._beating = False

    def enter(self) -> bool:
        """Whether there was room, which is then taken."""
        if self.inside >= self.limit:
            return False
        self.inside += 1
        if not self._beating:
            self._beating = True
            self._next(asyncio.get_running_loop())
        return True

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + BEAT_S
        loop.call_at(due, self._beat, loop, due)

    def _beat(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        if loop.time() - due > LATE_S:
            fewer = int(min(self.limit, self.inside) * FALL)
            self.limit = min(self._most, max(FEWEST, fewer))
        else:
            self.limit = min(self._most, self.limit + RISE)
        self._beating = self.inside > 0 or self.limit < self._most
        if self._beating:
            self._next(loop)
