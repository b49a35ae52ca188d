"""What the retrieval service reads from the environment, with ReleaseSettings. Prefix TANDEM_."""

from __future__ import annotations

from pydantic import Field

from services.releases.settings import ReleaseSettings


class RetrievalSettings(ReleaseSettings):
    max_body_bytes: int = Field(
        default=4 << 20,
        ge=1024,
        description="A larger request body is refused with 413. Bytes. Holds everything that one user has seen.",
    )
