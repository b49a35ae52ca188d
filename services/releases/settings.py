"""What a service that loads releases reads from the environment. Prefix TANDEM_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from services.http.settings import HttpSettings


class ReleaseSettings(HttpSettings):
    registry: Path | None = Field(
        default=None,
        description="The folder of releases that can be loaded; its current one is served where no folders are named.",
    )
    max_releases: int = Field(
        default=5, ge=1, description="Releases in memory at once, the live one included; one more is refused with 503."
    )
