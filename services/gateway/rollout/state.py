"""What is decided: which release is what, and how it came to that. Pure; every gateway reads the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from shared.errors import BadInput
from shared.wire.rollout import RolloutChange

STARTED = ""
"""In place of a release: whatever the services started with."""
HISTORY = 50

By = Literal["operator", "watch"]
Step = Callable[["Decided"], "Decided"]
"""Raises BadInput where it cannot be taken."""


class Canary(BaseModel):
    """share: of the users, 0 to 1.  experiment: names the split."""

    model_config = ConfigDict(frozen=True)

    release: str
    share: float
    experiment: str


class Decided(BaseModel):
    """previous: what was live before, None while nothing was.  history: the oldest change first."""

    model_config = ConfigDict(frozen=True)

    live: str = STARTED
    previous: str | None = None
    canary: Canary | None = None
    shadow: str | None = None
    history: tuple[RolloutChange, ...] = ()

    def releases(self) -> set[str]:
        """All that must stay loaded."""
        canary = self.canary.release if self.canary else None
        return {one for one in (self.live, self.previous, canary, self.shadow) if one is not None}

    def is_new(self, now: datetime, watch_s: float) -> bool:
        """Whether the live release is still watched. What was gone back to is not: it was live before."""
        came = next((one for one in reversed(self.history) if one.what in ("live", "rollback")), None)
        if came is None or came.what == "rollback" or self.previous is None:
            return False
        return (now - came.at).total_seconds() < watch_s


def live(release: str, at: datetime) -> Step:
    def step(now: Decided) -> Decided:
        if release == now.live:
            return now
        return _live(now, release, RolloutChange(at=at, what="live", release=release))

    return step


def back(at: datetime, by: By, reason: str, gone: str) -> Step:
    """From `gone`, and only where this is still live: a second way back would be the way there again."""

    def step(now: Decided) -> Decided:
        if now.live != gone:
            raise BadInput(f"release {gone or 'started'!r} is no longer live: another gateway was faster")
        if now.previous is None:
            raise BadInput("there is no previous release to go back to: none was replaced yet")
        return _live(
            now, now.previous, RolloutChange(at=at, what="rollback", release=now.previous or None, by=by, reason=reason)
        )

    return step


def canary(wanted: Canary, at: datetime) -> Step:
    def step(now: Decided) -> Decided:
        _require_not_live(now, wanted.release, "a canary")
        shares = f"{wanted.share:.0%} of the users, experiment {wanted.experiment}"
        change = RolloutChange(at=at, what="canary", release=wanted.release, reason=shares)
        return _with(now, change, canary=wanted, shadow=_unless(now.shadow, wanted.release))

    return step


def shadow(release: str, at: datetime) -> Step:
    def step(now: Decided) -> Decided:
        _require_not_live(now, release, "a shadow")
        if now.canary and now.canary.release == release:
            raise BadInput(f"release {release!r} is the canary: its answers are given already")
        return _with(now, RolloutChange(at=at, what="shadow", release=release), shadow=release)

    return step


def without_canary(at: datetime, by: By = "operator", reason: str = "", release: str | None = None) -> Step:
    """`release`: only where this is still the canary."""

    def step(now: Decided) -> Decided:
        if now.canary is None or release not in (None, now.canary.release):
            raise BadInput("no canary is being served")
        gone = now.canary.release
        return _with(now, RolloutChange(at=at, what="canary_ended", release=gone, by=by, reason=reason), canary=None)

    return step


def without_shadow(at: datetime) -> Step:
    def step(now: Decided) -> Decided:
        if now.shadow is None:
            raise BadInput("no shadow is being scored")
        return _with(now, RolloutChange(at=at, what="shadow_ended", release=now.shadow), shadow=None)

    return step


def _live(now: Decided, release: str, change: RolloutChange) -> Decided:
    """What becomes live is canary and shadow no longer."""
    going = now.canary if now.canary and now.canary.release != release else None
    return _with(now, change, live=release, previous=now.live, canary=going, shadow=_unless(now.shadow, release))


def _with(now: Decided, change: RolloutChange, **roles: object) -> Decided:
    return now.model_copy(update={**roles, "history": (*now.history, change)[-HISTORY:]})


def _unless(release: str | None, taken: str) -> str | None:
    return None if release == taken else release


def _require_not_live(now: Decided, release: str, role: str) -> None:
    if release == now.live:
        raise BadInput(f"release {release!r} is live: it cannot be {role} of itself")
