"""What every service reads from the environment. Prefix TANDEM_."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import BadInput

PREFIX = "TANDEM_"
MIN_SECRET = 32


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
        description="Requests in flight, fewer while the event loop comes late; what comes beyond them waits.",
    )
    max_waiting: int = Field(
        default=128, ge=0, description="Requests waiting; one more is refused at once with 503 and Retry-After."
    )
    max_wait_ms: float = Field(default=20, ge=0, description="A longer wait is a 503 as well. Milliseconds.")
    internal_secret: SecretStr | None = Field(
        default=None,
        description="Signs what a gateway asks the inner services, which then answer nobody else. At least 32 "
        "characters; two of them, with a comma between, while a new one (the first) replaces an old one.",
    )
    metrics_token: SecretStr | None = Field(
        default=None, min_length=16, description="For /metrics, as `Authorization: Bearer`."
    )
    allow_open: bool = Field(
        default=False, description="Listen at other addresses than the loopback although everybody is let in."
    )
    shutdown_grace_s: int = Field(
        default=30, ge=1, description="After SIGTERM, requests in flight have this long to finish. Seconds."
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="Traces go to this OpenTelemetry collector, over HTTP; for example http://127.0.0.1:4318. Needs "
        "the extra `tracing`.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="JSON lines on stderr at this level and above."
    )
    log_salt: str = Field(
        default="",
        description="Keys the hash that stands for a user id in the logs. Set the same secret in all services.",
    )

    @field_validator("internal_secret")
    @classmethod
    def _long_enough(cls, given: SecretStr | None) -> SecretStr | None:
        if given is not None and not (1 <= len(_split(given)) <= 2 and min(map(len, _split(given))) >= MIN_SECRET):
            raise ValueError(f"one secret of at least {MIN_SECRET} characters, or two with a comma between")
        return given

    def internal_secrets(self) -> tuple[bytes, ...]:
        """The first one signs."""
        return _split(self.internal_secret) if self.internal_secret else ()


def _split(secrets: SecretStr) -> tuple[bytes, ...]:
    return tuple(one.strip().encode() for one in secrets.get_secret_value().split(","))


Settings = TypeVar("Settings", bound=HttpSettings)


def read(settings: type[Settings]) -> Settings:
    """From the environment. Raises BadInput, naming the variable."""
    try:
        return settings()
    except ValidationError as error:
        first = error.errors()[0]
        variable = PREFIX + str(first["loc"][0]).upper()
        hidden = settings.model_fields[str(first["loc"][0])].annotation in (SecretStr, SecretStr | None)
        value = "a secret, so it is not shown here" if hidden else repr(first["input"])
        raise BadInput(f"{variable} is {value}: {first['msg'].removeprefix('Value error, ')}") from None
