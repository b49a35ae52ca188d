"""Bodies of the three HTTP APIs. Ids only: dense indices never leave a process.

Every request model forbids unknown fields, and every list and string has a bound.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_HISTORY = 1_000
MAX_EXCLUDED = 1_000
MAX_SEEN = 20_000
"""What one user already has, at most; the most recent count."""
MAX_LIMIT = 1_000
MAX_TIMEOUT_MS = 60_000
RERANKED = 20
"""The language model ranks the first 20; what follows keeps the retriever's order."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
RankerName = Literal["llamarec", "recllm", "collm", "tallrec", "llara", "retrieval"]
Cache = Literal["miss", "hit", "stale"]
Score = Annotated[float, Field(allow_inf_nan=False)]
Degradation = Literal[
    "ranker_timeout",
    "ranker_unavailable",
    "ranker_overloaded",
    "retrieval_unavailable",
    "stale_cache",
    "cold_user",
    "low_confidence",
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# The gateway: POST /recommend


class ItemFilter(_Request):
    categories: list[Id] = Field(
        default_factory=list, max_length=50, description="Keep items that have at least one of these."
    )


class RecommendRequest(_Request):
    user_id: Id | None = None
    session_id: Id | None = None
    history: list[Id] | None = Field(
        default=None, max_length=MAX_HISTORY, description="Oldest first. Overrides the stored history."
    )
    limit: int = Field(default=10, ge=1, le=MAX_LIMIT)
    ranker: RankerName | None = Field(default=None, description="The server's default where absent.")
    exclude_item_ids: list[Id] = Field(default_factory=list, max_length=MAX_EXCLUDED)
    filter: ItemFilter = ItemFilter()
    include: list[Literal["scores", "metadata"]] = Field(default_factory=list, max_length=8)
    timeout_ms: int | None = Field(default=None, ge=1, le=MAX_TIMEOUT_MS)
    allow_degraded: bool = True

    @model_validator(mode="after")
    def _someone(self) -> RecommendRequest:
        if self.user_id is None and self.history is None:
            raise ValueError("one of user_id and history is needed")
        return self


class ItemMetadata(_Answer):
    title: str
    categories: list[str] = Field(default_factory=list)


class RecommendedItem(_Answer):
    item_id: str
    rank: int
    source: str
    score: float | None = None
    retrieval_score: float | None = None
    metadata: ItemMetadata | None = None


class Models(_Answer):
    """`name@version` of what made an answer; None where that stage had no part in it."""

    ranker: str | None = None
    retriever: str | None = None
    catalog: str | None = None


class Timing(_Answer):
    """Milliseconds. `queue` and `rank` are the ranking service's own, `total` the gateway's."""

    total: float
    cache: float = 0.0
    retrieval: float = 0.0
    queue: float = 0.0
    rank: float = 0.0


class RecommendAnswer(_Answer):
    recommendation_id: str
    items: list[RecommendedItem]
    model: Models
    degraded: bool
    degradation: list[Degradation]
    cache: Cache = "miss"
    missing_ids: list[str] = Field(default_factory=list, description="Ids the catalogue does not know.")
    timing_ms: Timing


# Gateway -> retrieval: POST /retrieve. What comes from our own stores is bounded by the size of the body alone: an
# odd id in a data folder must not turn into an error for the user who has it.


class RetrieveRequest(_Request):
    user_id: str | None = None
    history: list[str] = Field(default_factory=list, max_length=MAX_HISTORY)
    k: int = Field(default=RERANKED, ge=1, le=MAX_LIMIT + RERANKED)
    exclude_item_ids: list[str] = Field(
        default_factory=list,
        max_length=MAX_SEEN + MAX_EXCLUDED,
        description="Beside the history, which is always excluded: also the items before it.",
    )
    categories: list[str] = Field(default_factory=list, max_length=50)
    metadata: bool = False


class RetrievedItem(_Answer):
    item_id: str
    score: Score
    metadata: ItemMetadata | None = None


class RetrieveAnswer(_Answer):
    """Best first. The history is always excluded. `source` is popularity for a history without a known item."""

    items: list[RetrievedItem]
    source: Literal["retrieval", "popularity"]
    missing_ids: list[str]
    model: str
    catalog: str
    elapsed_ms: float


# Gateway -> ranking: POST /rank


class RankRequest(_Request):
    user_id: str | None = None
    history: list[str] = Field(max_length=MAX_HISTORY)
    ranker: RankerName | None = None
    candidates: list[RetrievedItem] = Field(min_length=1, max_length=RERANKED)
    catalog: str = Field(description="Fingerprint of the catalogue that the candidates come from.")


class RankedItem(_Answer):
    item_id: str
    score: Score


class RankAnswer(_Answer):
    """The candidates re-scored, best first. label_mass 0..1, entropy in nats."""

    items: list[RankedItem]
    model: str
    ranker: RankerName
    label_mass: Score
    entropy: Score
    queue_ms: float
    rank_ms: float


# Gateway and retrieval: GET /items/{id}. Gateway: GET /users/{id}/history


class ItemAnswer(_Answer):
    item_id: str
    title: str
    categories: list[str] = Field(default_factory=list)


class HistoryAnswer(_Answer):
    """Oldest first."""

    user_id: str
    item_ids: list[str]


# All three services: GET /models


class ModelCard(_Answer):
    name: str
    method: str
    catalog: str
    metrics: dict[str, float | int | str | None] = Field(default_factory=dict)


class ModelList(_Answer):
    models: list[ModelCard]
    default: RankerName | None = None
