"""How long the batches of one model take, by their size, as seen lately."""

from __future__ import annotations

NEWEST = 0.3
"""The weight of the latest batch of a size against those before it."""


class Pace:
    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def saw(self, size: int, seconds: float) -> None:
        before = self._seconds.get(size, seconds)
        self._seconds[size] = before + NEWEST * (seconds - before)

    def of(self, size: int) -> float:
        """Seconds, at most: a batch takes no longer than a larger one, nor than its parts one after the other. Holds on
        a CPU, where each request adds its time, and on a GPU, where a full batch takes as long as one. 0 where nothing
        was seen yet."""
        return min((seconds * -(-size // seen) for seen, seconds in self._seconds.items()), default=0.0)

    def prefers_one_by_one(self, jobs: int) -> bool:
        """Whether so many are done sooner on average one after the other than as one batch of which each waits for all:
        on a CPU. False where one of the two was never seen."""
        alone, together = self._seconds.get(1), self._seconds.get(jobs)
        return alone is not None and together is not None and alone * (jobs + 1) / 2 < together

    def of_queue(self, jobs: int, max_batch: int) -> float:
        full, rest = divmod(jobs, max_batch)
        return full * self.of(max_batch) + (self.of(rest) if rest else 0.0)
