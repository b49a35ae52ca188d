"""Where the state is kept, from the environment. Prefix TANDEM_."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field, SecretStr

from services.gateway.cache.breaker import Breaker, guarded
from services.gateway.state.bounds import Bounds
from services.gateway.state.memory import MemoryState
from services.gateway.state.tombstones import Tombstones
from services.http.settings import HttpSettings
from shared.errors import BadInput

if TYPE_CHECKING:
    from services.gateway.state.redis import RedisState

DEFAULTS = Bounds()


class StateSettings(HttpSettings):
    redis_url: SecretStr | None = Field(
        default=None,
        description="redis://[user:password@]host[:port][/db], rediss:// for TLS, or unix://. Unset: all state is this "
        "process's own, and gone when it ends.",
    )
    redis_timeout_ms: float = Field(
        default=50,
        gt=0,
        le=1000,
        description="How long a read waits for Redis, connecting included; a write waits ten times as long. "
        "Milliseconds.",
    )
    session_ttl_s: float = Field(
        default=DEFAULTS.session_ttl_s,
        ge=1,
        description="A session is forgotten this long after its last event. Seconds.",
    )
    record_ttl_s: float = Field(
        default=DEFAULTS.record_ttl_s,
        ge=1,
        description="For so long events can be joined to the recommendation that they follow from. Seconds.",
    )
    max_item_states: int = Field(
        default=DEFAULTS.item_states, ge=1, description="Items of one tenant with a state of their own."
    )
    erasure_secret: SecretStr = Field(
        default=SecretStr(""),
        description="Keys the hash that stands for an erased user; the same in all gateways. Must never change: "
        "another one brings a data folder's histories of erased users back.",
    )


def open_state(
    settings: StateSettings, *, breaker: Breaker | None = None, took: Callable[[float], None] = lambda seconds: None
) -> MemoryState | RedisState:
    """With its `connections` for whoever else uses the same Redis. Connects to nothing yet: Redis may come later.
    `took` hears the seconds of each round trip. Raises BadInput for a URL that is none, without showing it."""
    bounds = Bounds(
        session_ttl_s=settings.session_ttl_s,
        record_ttl_s=settings.record_ttl_s,
        item_states=settings.max_item_states,
    )
    tombstones = Tombstones(settings.erasure_secret.get_secret_value())
    if settings.redis_url is None:
        return MemoryState(bounds, tombstones)
    # Imported here: a process without Redis does without the half second that its client takes to load.
    from services.gateway.state.connections import Connections
    from services.gateway.state.redis import RedisState

    try:
        connections = Connections(settings.redis_url.get_secret_value(), settings.redis_timeout_ms / 1000, took=took)
    except ValueError:
        raise BadInput(
            "TANDEM_REDIS_URL is not a Redis URL; write redis://[user:password@]host[:port][/db], or rediss:// for TLS"
        ) from None
    return RedisState(guarded(connections, breaker or Breaker("the store")), bounds, tombstones)
