"""What every service reads from the environment. Prefix TANDEM_."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import BadInput

PREFIX = "TANDEM_"


class HttpSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    max_body_bytes: int = Field(
        default=1 << 20, ge=1024, description="A larger request body is refused with 413. Bytes."
    )
    max_body_seconds: float = Field(
        default=10, gt=0, description="A body that takes longer to arrive is refused with 408. Seconds."
    )
    max_concurrency: int = Field(
        default=128,
        ge=1,
        description="Requests in flight; one more is refused at once with 503 and Retry-After.",
    )
    shutdown_grace_s: int = Field(
        default=30, ge=1, description="After SIGTERM, requests in flight have this long to finish. Seconds."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="JSON lines on stderr at this level and above."
    )
    log_salt: str = Field(
        default="",
        description="Keys the hash that stands for a user id in the logs. Set the same secret in all services.",
    )


Settings = TypeVar("Settings", bound=HttpSettings)


def read(settings: type[Settings]) -> Settings:
    """From the environment. Raises BadInput, naming the variable."""
    try:
        return settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = PREFIX + str(first["loc"][0]).upper()
        raise BadInput(f"{variable} is {first['input']!r}: {first['msg']}") from None
