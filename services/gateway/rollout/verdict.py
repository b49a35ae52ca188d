"""Whether a release does worse than the one beside it, beyond chance. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

from services.gateway.rollout.health import Numbers, quantile

Cause = Literal["faults", "low_confidence", "latency"]
Z = 3.29
"""Of the two-sided 99.9 % interval: it is asked twice a second."""
BLIND = 0.5
"""Without enough answers to compare with, more than this share is bad by itself."""
QUANTILES = (0.5, 0.95)
"""The median too: on a busy machine the tail of both is long, and hides what happens to everybody."""
SLACK_MS = 5.0
SLACK_SHARE = 0.25
"""Nobody feels a multiple of a few milliseconds, nor of a small part of the whole: so many more are allowed, and this
share of what both parts take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """answers: fewer say nothing.  faults and low_confidence: by how much the share may be higher.  slowdown: how many
    times as long the median and the 95th percentile may be."""

    answers: int = 20
    faults: float = 0.02
    low_confidence: float = 0.1
    slowdown: float = 3.0


@dataclass(frozen=True, slots=True)
class Verdict:
    cause: Cause
    reason: str


def verdict(new: Numbers, old: Numbers, limits: Limits) -> Verdict | None:
    """None where nothing is proven against the new one.

    A share is higher when the lower end of its Wilson interval is above the upper end of the other's, and the limit
    between them: few answers prove only what is blatant. The 95th percentile of a part's time is so many times as long
    when, by the same interval, more than 5 % of the new one's answers took so many times the old one's; the median
    likewise.
    """
    if new.answers < limits.answers:
        return None
    if _is_higher(new.faults, new, old.faults, old, limits.faults, limits.answers):
        return Verdict("faults", f"{_share(new.faults, new)} had a fault, {_share(old.faults, old)} beside it")
    if _is_higher(new.unsure, new, old.unsure, old, limits.low_confidence, limits.answers):
        return Verdict("low_confidence", f"{_share(new.unsure, new)} were unsure, {_share(old.unsure, old)} beside it")
    usual_ms = quantile(old.retrieval_ms, 0.5) + quantile(old.rank_ms, 0.5)
    slack_ms = SLACK_MS + SLACK_SHARE * usual_ms
    for part, of_new, of_old in (
        ("retrieval", new.retrieval_ms, old.retrieval_ms),
        ("the ranker", new.rank_ms, old.rank_ms),
    ):
        for share in QUANTILES:
            if found := _slower(part, of_new, of_old, share, slack_ms, limits):
                return found
    return None


def _slower(
    part: str, new: Sequence[float], old: Sequence[float], share: float, slack_ms: float, limits: Limits
) -> Verdict | None:
    if min(len(old), len(new)) < limits.answers:
        return None
    bound_ms = quantile(old, share) * limits.slowdown + slack_ms
    late = len(new) - bisect_right(new, bound_ms)
    if wilson(late, len(new))[0] <= 1 - share:
        return None
    return Verdict(
        "latency",
        f"{part} took longer than {bound_ms:.0f} ms for {late} of {len(new)} answers, "
        f"{limits.slowdown:g} times the {share:.0%} quantile beside it",
    )


def wilson(hits: int, count: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927; Brown, Cai and DasGupta 2001, equation 4)."""
    if count == 0:
        return 0.0, 1.0
    share, zz = hits / count, z * z / count
    middle = share + zz / 2
    half = z * sqrt(share * (1 - share) / count + zz / (4 * count))
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


def _is_higher(hits: int, new: Numbers, hits_beside: int, old: Numbers, limit: float, enough: int) -> bool:
    beside = wilson(hits_beside, old.answers)[1] if old.answers >= enough else BLIND
    return wilson(hits, new.answers)[0] > beside + limit


def _share(hits: int, of: Numbers) -> str:
    return f"{hits} of {of.answers} answers"
