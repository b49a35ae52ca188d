"""What the retrieval service reads from the environment, with ReleaseSettings. Prefix TANDEM_."""

from __future__ import annotations

from pydantic import Field, SecretStr

from services.releases.settings import ReleaseSettings


class RetrievalSettings(ReleaseSettings):
    max_body_bytes: int = Field(
        default=4 << 20,
        ge=1024,
        description="A larger request body is refused with 413. Bytes. Holds everything that one user has seen.",
    )
    states_max_bytes: int = Field(
        default=64 << 20,
        ge=0,
        description="Of the process's own memory of what histories have come to, so that one more event is one step "
        "while the history is shorter than the model's window; 2.5 KB a history. 0: none. Bytes.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Where all retrieval processes share what histories of 50 items and more have come to. Unset: each "
        "has its own memory alone.",
    )
    redis_timeout_ms: float = Field(
        default=30,
        gt=0,
        le=1000,
        description="A read that takes longer is given up, and Redis left alone for two seconds. Milliseconds.",
    )
    states_ttl_s: int = Field(default=86_400, ge=1, description="What is kept in Redis is gone after so long. Seconds.")
