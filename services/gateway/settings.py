"""What the gateway reads from the environment, with HttpSettings. Prefix TANDEM_."""

from __future__ import annotations

from pydantic import Field, HttpUrl

from services.http.settings import HttpSettings
from shared.wire import MAX_TIMEOUT_MS, RankerName


class GatewaySettings(HttpSettings):
    retrieval_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8001"), description="Where the retrieval service answers."
    )
    ranking_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8002"), description="Where the ranking service answers."
    )
    default_timeout_ms: int = Field(
        default=1000,
        ge=1,
        le=MAX_TIMEOUT_MS,
        description="The budget of a request that names none. Milliseconds.",
    )
    reserve_ms: float = Field(
        default=10, ge=0, description="Kept back from both stages to put the answer together. Milliseconds."
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
    popularity_refresh_s: float = Field(
        default=60, gt=0, description="How often the list for when retrieval is down is fetched anew. Seconds."
    )
