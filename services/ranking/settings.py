"""What the ranking service reads from the environment, with ReleaseSettings. Prefix TANDEM_."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.releases.settings import ReleaseSettings
from shared.wire.base import RankerName


class RankingSettings(ReleaseSettings):
    max_queue: int = Field(
        default=64, ge=1, description="Requests waiting for the model; one more is refused with 503."
    )
    max_batch: int = Field(default=8, ge=1, description="Requests in one forward pass, at most.")
    max_queue_tokens: int = Field(
        default=131_072, ge=1, description="Tokens of the prompts that wait; a request alone is always let in."
    )
    max_batch_tokens: int = Field(
        default=8192, ge=1, description="Tokens of one forward pass, at most; a request alone is always taken."
    )
    engine_hang_s: float = Field(
        default=60.0,
        gt=0,
        description="Seconds after which a batch that still runs counts as dead: the process is unready, and ends with "
        "status 70 so that its supervisor starts a clean one.",
    )
    default_ranker: RankerName | None = Field(
        default=None, description="For requests that name none; where unset, the first --ranker."
    )
    engine: Literal["local", "vllm"] = Field(
        default="local",
        description="What runs the language model: this process, or vLLM, which has an environment of its own.",
    )
