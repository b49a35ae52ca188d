"""Milliseconds left, carried between services in one header.

The remainder travels, not a wall-clock time: clocks of two machines differ, durations do not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

HEADER = "X-Tandem-Deadline-Ms"


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on this process's monotonic clock, in seconds."""

    at: float

    @classmethod
    def after_ms(cls, ms: float) -> Deadline:
        return cls(time.monotonic() + ms / 1000)

    def remaining_ms(self) -> float:
        """Never negative."""
        return max(0.0, (self.at - time.monotonic()) * 1000)

    def remaining_s(self) -> float:
        return self.remaining_ms() / 1000

    @property
    def expired(self) -> bool:
        return self.remaining_ms() == 0.0

    def less_ms(self, ms: float) -> Deadline:
        """The deadline for a part of the work, which leaves `ms` for what comes after it."""
        return Deadline(self.at - ms / 1000)

    def at_most_ms(self, ms: float) -> Deadline:
        """The deadline for a part that gets `ms` and no more."""
        return Deadline(min(self.at, time.monotonic() + ms / 1000))

    def header(self) -> dict[str, str]:
        return {HEADER: f"{self.remaining_ms():.0f}"}
