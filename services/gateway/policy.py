"""What the operator decides about answers."""

from __future__ import annotations

from dataclasses import dataclass

from shared.deadline import Deadline
from shared.wire.base import RankerName
from shared.wire.inner import RankAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """reserve_ms: kept back to put the answer together, at most a fifth of the budget.  entropy in nats.
    spare: retrieved beyond the limit, so that filters find what takes the place of the filtered."""

    default_timeout_ms: float = 1000
    reserve_ms: float = 10
    default_ranker: RankerName | None = None
    min_label_mass: float = 0.05
    max_entropy: float | None = None
    spare: int = 30
    cache_fresh_s: float = 60
    cache_stale_s: float = 600

    def deadline(self, *asked_ms: float | None) -> Deadline:
        """The shortest of the budgets that were asked for."""
        asked = [ms for ms in asked_ms if ms is not None]
        return Deadline.after_ms(min(asked, default=self.default_timeout_ms))

    def working_time(self, deadline: Deadline) -> Deadline:
        return deadline.less_ms(min(self.reserve_ms, deadline.remaining_ms() / 5))

    def confident(self, answer: RankAnswer) -> bool:
        flat = self.max_entropy is not None and answer.entropy > self.max_entropy
        return answer.label_mass >= self.min_label_mass and not flat
