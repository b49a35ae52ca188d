"""What the gateway reads from the environment, with the settings of its rooms. Prefix TANDEM_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, HttpUrl

from services.gateway.cache.settings import CacheSettings
from services.gateway.policy import Policy
from services.gateway.rollout.settings import RolloutSettings
from services.gateway.state.settings import StateSettings
from shared.wire.base import MAX_TIMEOUT_MS, RankerName


class GatewaySettings(StateSettings, CacheSettings, RolloutSettings):
    retrieval_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8001"), description="Where the retrieval service answers."
    )
    ranking_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8002"), description="Where the ranking service answers."
    )
    api_keys_file: Path | None = Field(
        default=None, description="Who may ask for what, made by `tandem keys add`; unset: everybody, everything."
    )
    default_timeout_ms: int = Field(
        default=1000,
        ge=1,
        le=MAX_TIMEOUT_MS,
        description="The budget of a request that names none. Milliseconds.",
    )
    reserve_ms: float = Field(
        default=10,
        ge=0,
        description="Kept back from both stages to put the answer together; at most a fifth of the budget. "
        "Milliseconds.",
    )
    default_ranker: RankerName | None = Field(
        default=None, description="For requests that name none; where unset, the ranking service's own default."
    )
    min_label_mass: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Where the model puts less probability on the labels, the retriever's order stands.",
    )
    max_entropy: float | None = Field(
        default=None,
        ge=0,
        description="Where the labels' entropy is higher, the retriever's order stands. Nats; unset: never.",
    )
    spare_candidates: int = Field(
        default=30, ge=0, le=500, description="Retrieved beyond the limit: what takes the place of filtered items."
    )
    breaker_failures: int = Field(
        default=5, ge=1, description="So many silences in a row, and a service is left alone for a while."
    )
    breaker_open_s: float = Field(default=2, gt=0, description="That while; then one request tries again. Seconds.")
    hedge_retrieval: bool = Field(
        default=True,
        description="Ask retrieval a second time when the first answer takes longer than usual (its 95th percentile); "
        "a tenth of the requests at most.",
    )
    popularity_refresh_s: float = Field(
        default=60, gt=0, description="How often the list for when retrieval is down is fetched anew. Seconds."
    )
    popularity_file: Path | None = Field(
        default=None, description="Keeps that list between two lives of the gateway; JSON."
    )
    data_tenant: str = Field(default="default", description="The tenant whose users the data folder holds.")

    def policy(self) -> Policy:
        return Policy(
            default_timeout_ms=self.default_timeout_ms,
            reserve_ms=self.reserve_ms,
            default_ranker=self.default_ranker,
            min_label_mass=self.min_label_mass,
            max_entropy=self.max_entropy,
            spare=self.spare_candidates,
            cache_fresh_s=self.cache_fresh_s,
            cache_stale_s=self.cache_stale_s,
        )
