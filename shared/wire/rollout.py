"""Bodies of the gateway's /admin/models."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from shared.wire.base import Answer, RankerName, Request
from shared.wire.inner import ReleaseId

# The gateway: GET and POST /admin/models, POST /admin/models/rollback, DELETE /admin/models/canary and .../shadow

ExperimentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ServeRequest(Request):
    """Which release is to be what: live for all users, canary for some, shadow for none."""

    release: ReleaseId
    role: Literal["live", "canary", "shadow"] = Field(alias="as")
    share: float | None = Field(default=None, gt=0, lt=1, description="Of the users, for a canary; 0.1 where absent.")
    experiment: ExperimentName | None = Field(
        default=None, description="Names a canary's split of the users; the release's name where absent."
    )
    drop: list[RankerName] = Field(
        default_factory=list, max_length=8, description="Rankers that the live release has and this one may lack."
    )

    @model_validator(mode="after")
    def _only_a_canary_has_a_share(self) -> ServeRequest:
        if self.role != "canary" and (self.share is not None or self.experiment is not None):
            raise ValueError("share and experiment belong to a canary")
        return self


class ReleaseHealth(Answer):
    """Of the answers that this gateway made anew (none from the cache) over the last minutes. Shares from 0 to 1."""

    answers: int
    faults: float
    low_confidence: float
    p95_ms: float | None = None


class ServedRelease(Answer):
    """release: absent for whatever the services started with.  ready: all its parts have answered this gateway."""

    release: str | None = None
    ready: bool
    models: list[str]
    health: ReleaseHealth


class CanaryRelease(ServedRelease):
    share: float
    experiment: str


class ShadowRelease(ServedRelease):
    """Means over the comparisons of the last minutes. tau: Kendall's, over the items that both lists hold."""

    compared: int
    tau: float | None = None
    top1: float | None = None


class RolloutChange(Answer):
    """release: the one that came, or for an end the one that went."""

    at: datetime
    what: Literal["live", "canary", "shadow", "rollback", "canary_ended", "shadow_ended"]
    release: str | None = None
    by: Literal["operator", "watch"] = "operator"
    reason: str = ""


class RolloutAnswer(Answer):
    """history: the newest change first.  watched: the live release is new, and goes back by itself should it be worse
    than the previous one.  saved: false while the store of the rollout does not answer and a way back holds here alone.
    problems: what keeps this gateway from serving as it is decided."""

    live: ServedRelease
    previous: ServedRelease | None = None
    canary: CanaryRelease | None = None
    shadow: ShadowRelease | None = None
    watched: bool
    saved: bool
    problems: list[str] = Field(default_factory=list)
    history: list[RolloutChange] = Field(default_factory=list)
