"""What the ranking service reads from the environment, with ReleaseSettings. Prefix TANDEM_."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.releases.settings import ReleaseSettings
from shared.wire import RankerName


class RankingSettings(ReleaseSettings):
    max_queue: int = Field(
        default=64, ge=1, description="Requests waiting for the model; one more is refused with 503."
    )
    max_batch: int = Field(default=8, ge=1, description="Requests in one forward pass, at most.")
    default_ranker: RankerName | None = Field(
        default=None, description="For requests that name none; where unset, the first --ranker."
    )
    engine: Literal["local", "vllm"] = Field(
        default="local",
        description="What runs the language model: this process, or vLLM, which has an environment of its own.",
    )
