"""How releases are rolled out, from the environment. Prefix TANDEM_."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from services.gateway.rollout.stores import FileStore, MemoryStore, RolloutStore
from services.gateway.rollout.verdict import Limits
from services.http.settings import HttpSettings

if TYPE_CHECKING:
    from services.gateway.state.connections import Connections

DEFAULTS = Limits()


class RolloutSettings(HttpSettings):
    rollout_file: Path | None = Field(
        default=None,
        description="Where there is no Redis: keeps what is served over a restart of this one gateway; JSON.",
    )
    rollout_watch_s: float = Field(
        default=600,
        ge=0,
        description="For so long a new live release goes back by itself should it be worse than the one before. "
        "Seconds.",
    )
    rollout_min_answers: int = Field(
        default=DEFAULTS.answers,
        ge=1,
        description="Fewer answers of a canary or a new live release say nothing about it.",
    )
    rollout_max_faults: float = Field(
        default=DEFAULTS.faults,
        ge=0,
        le=1,
        description="By how much its share of answers with a fault may be higher than beside it.",
    )
    rollout_max_low_confidence: float = Field(
        default=DEFAULTS.low_confidence,
        ge=0,
        le=1,
        description="By how much its share of unsure answers may be higher than beside it.",
    )
    rollout_max_slowdown: float = Field(
        default=DEFAULTS.slowdown,
        ge=1,
        description="How many times as long as beside it the median and the 95th percentile of its retrieval and "
        "ranking may take.",
    )

    def limits(self) -> Limits:
        return Limits(
            answers=self.rollout_min_answers,
            faults=self.rollout_max_faults,
            low_confidence=self.rollout_max_low_confidence,
            slowdown=self.rollout_max_slowdown,
        )


def open_rollout(connections: Connections | None, settings: RolloutSettings) -> RolloutStore:
    """Over the connections of the state. Connects to nothing yet."""
    if connections is None:
        return FileStore(settings.rollout_file) if settings.rollout_file else MemoryStore()
    # Imported here: a process without Redis does without the half second that its client takes to load.
    from services.gateway.rollout.redis import RedisStore

    return RedisStore(connections)
