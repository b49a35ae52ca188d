"""Bodies of the three HTTP APIs. Ids only: dense indices never leave a process.

Every request model forbids unknown fields, and every list and string has a bound.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from shared.errors import BadAnswer

MAX_HISTORY = 1_000
MAX_EXCLUDED = 1_000
MAX_SEEN = 20_000
"""What one user already has, at most; the most recent count."""
MAX_LIMIT = 1_000
MAX_TIMEOUT_MS = 60_000
RERANKED = 20
"""The language model ranks the first 20; what follows keeps the retriever's order."""
MAX_BATCH = 32
"""Requests in one POST /recommend/batch."""
MAX_EVENTS = 500
MAX_DOCUMENTS = 1_000
MAX_TEXT = 2_000
"""Characters of one query line or document of POST /rerank."""
MAX_PROMOTIONS = 10
MAX_FAULTS = 100
"""A part of a request that has more is one fault."""
EXPLAINED = 10
"""History items that an explanation leaves out one by one: the most recent ones."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
RankerName = Literal["llamarec", "recllm", "collm", "tallrec", "llara", "retrieval"]
Token = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,16}$")]
"""How far one user's events are written; what POST /events hands out and POST /recommend honours."""
Rung = Literal["cache", "ranker", "retrieval", "stale", "popularity", "static"]
"""What an answer was made from, best first: a fresh cache entry, the language model, the retriever's order, a stale
cache entry, the popularity list, the gateway's own list."""
Cache = Literal["miss", "hit", "stale"]
Variant = Literal["live", "canary"]
Score = Annotated[float, Field(allow_inf_nan=False)]
Degradation = Literal[
    "ranker_timeout",
    "ranker_unavailable",
    "ranker_overloaded",
    "retrieval_unavailable",
    "stale_cache",
    "cold_user",
    "low_confidence",
    "state_unavailable",
    "stale_history",
]
"""state_unavailable: stored history, seen items or item states could not be read.  stale_history: the events of the
request's `after` token are not in the store that answered."""


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _few_faults(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """A body made of faults must not cost a second: pydantic takes 10 microseconds to tell of each."""
        try:
            return handler(value)
        except ValidationError as error:
            count = error.error_count()
            if count <= MAX_FAULTS:
                raise
        raise PydanticCustomError("too_many_faults", "{count} faults, too many to list", {"count": count})


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# The gateway: POST /recommend


class ItemFilter(_Request):
    categories: list[Id] = Field(
        default_factory=list, max_length=50, description="Keep items that have at least one of these."
    )
    availability: Literal["available", "any"] = Field(
        default="available", description="any: also items marked as not available. Hidden ones never come."
    )


class Promotion(_Request):
    """Items that the caller wants seen, where they are allowed for this user: one of position and share."""

    item_ids: list[Id] = Field(min_length=1, max_length=100, description="In order of preference.")
    position: int | None = Field(
        default=None, ge=1, le=MAX_LIMIT, description="The first allowed item stands at this place."
    )
    share: float | None = Field(
        default=None, gt=0, le=1, description="At most this share of the places, spread evenly."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Promotion:
        if (self.position is None) == (self.share is None):
            raise ValueError("a promotion needs one of position and share")
        return self


class RecommendRequest(_Request):
    user_id: Id | None = None
    session_id: Id | None = None
    history: list[Id] | None = Field(
        default=None, max_length=MAX_HISTORY, description="Oldest first. Overrides the stored history."
    )
    limit: int = Field(default=10, ge=1, le=MAX_LIMIT)
    ranker: RankerName | Literal["auto"] | None = Field(
        default=None,
        description="The server's default where absent. auto: the best one by validation that fits the budget.",
    )
    exclude_item_ids: list[Id] = Field(default_factory=list, max_length=MAX_EXCLUDED)
    filter: ItemFilter = ItemFilter()
    promotions: list[Promotion] = Field(default_factory=list, max_length=MAX_PROMOTIONS)
    diversity: float = Field(
        default=0, ge=0, le=1, description="Maximal marginal relevance: 0 keeps the order, 1 heeds unlikeness alone."
    )
    include: list[Literal["scores", "metadata", "explain"]] = Field(default_factory=list, max_length=8)
    timeout_ms: int | None = Field(default=None, ge=1, le=MAX_TIMEOUT_MS)
    allow_degraded: bool = True
    after: Token | None = Field(
        default=None, description="The token of POST /events: answer from a history that holds those events."
    )

    @model_validator(mode="after")
    def _someone(self) -> RecommendRequest:
        if self.user_id is None and self.session_id is None and self.history is None:
            raise ValueError("one of user_id, session_id and history is needed")
        return self


class ItemMetadata(_Answer):
    title: str
    categories: list[str] = Field(default_factory=list)


class Because(_Answer):
    """A history item without which the item would have scored `weight` less (the ranker's own scale)."""

    item_id: str
    weight: Score


class RecommendedItem(_Answer):
    item_id: str
    rank: int
    source: str
    score: float | None = None
    retrieval_score: float | None = None
    metadata: ItemMetadata | None = None
    because: list[Because] | None = Field(
        default=None, description="With include explain: measured, the strongest first; empty where nothing helped."
    )


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


class Experiment(_Answer):
    """Present while a canary takes a share of the users; the variant is the one that made this answer."""

    name: str
    variant: Variant


class RecommendAnswer(_Answer):
    recommendation_id: str
    items: list[RecommendedItem]
    model: Models
    degraded: bool
    degradation: list[Degradation]
    rung: Rung
    cache: Cache = "miss"
    missing_ids: list[str] = Field(default_factory=list, description="Ids the catalogue does not know.")
    timing_ms: Timing
    experiment: Experiment | None = None


# The gateway: POST /recommend/batch, POST /rank, POST /rerank


class BatchRequest(_Request):
    requests: list[RecommendRequest] = Field(min_length=1, max_length=MAX_BATCH)


class BatchEntry(_Answer):
    """One of answer and problem, as `status` says."""

    status: int
    answer: RecommendAnswer | None = None
    problem: dict[str, object] | None = None


class BatchAnswer(_Answer):
    answers: list[BatchEntry] = Field(description="In the order of the requests.")


class RankItemsRequest(_Request):
    """The caller's own candidates. The first 20, in the retriever's order, go to the language model."""

    user_id: Id | None = None
    session_id: Id | None = None
    history: list[Id] | None = Field(default=None, max_length=MAX_HISTORY, description="Oldest first.")
    candidates: list[Id] = Field(min_length=1, max_length=MAX_LIMIT)
    limit: int | None = Field(default=None, ge=1, le=MAX_LIMIT, description="All candidates where absent.")
    ranker: RankerName | Literal["auto"] | None = None
    include: list[Literal["scores", "metadata", "explain"]] = Field(default_factory=list, max_length=8)
    timeout_ms: int | None = Field(default=None, ge=1, le=MAX_TIMEOUT_MS)
    allow_degraded: bool = True
    after: Token | None = None

    @model_validator(mode="after")
    def _someone(self) -> RankItemsRequest:
        if self.user_id is None and self.session_id is None and self.history is None:
            raise ValueError("one of user_id, session_id and history is needed")
        return self


Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]


class Document(BaseModel):
    """Jina and Cohere also send documents as objects; other fields than the text are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    text: Text


class RerankRequest(BaseModel):
    """The Jina and Cohere shape. Clients of theirs send fields that mean nothing here: those are left alone.

    `query` names the history, one item a line, oldest first; `documents` the candidates: each by id or by exact title.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    model: str | None = Field(default=None, max_length=200, description="A ranker's name; else the default.")
    query: str = Field(max_length=MAX_HISTORY * 200)
    documents: list[Text | Document] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False


class RerankResult(_Answer):
    index: int
    relevance_score: Score
    document: Document | None = None


class Usage(_Answer):
    total_tokens: int = 0


class RerankAnswer(_Answer):
    """Best first; relevance 0..1, falling. A document that names no item stands last with 0."""

    model: str
    results: list[RerankResult]
    usage: Usage = Usage()
    degraded: bool = False
    degradation: list[Degradation] = Field(default_factory=list)


# The gateway: POST /events, /users, /items


class Event(_Request):
    """interaction: the user took it; it joins the history.  dismissal: not wanted; it is only never shown again."""

    event_id: Id = Field(description="The same id twice is one event.")
    user_id: Id | None = None
    session_id: Id | None = None
    item_id: Id
    type: Literal["interaction", "dismissal"] = "interaction"
    timestamp: int | None = Field(
        default=None, ge=0, le=1 << 53, description="Milliseconds since 1970; the time of arrival where absent."
    )
    recommendation_id: Id | None = Field(default=None, description="The answer that this event follows from.")

    @model_validator(mode="after")
    def _someone(self) -> Event:
        if self.user_id is None and self.session_id is None:
            raise ValueError("one of user_id and session_id is needed")
        return self


class EventBatch(_Request):
    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


class EventsAnswer(_Answer):
    """What is acknowledged here is written. `tokens` per user (or session) id, for `after` in POST /recommend."""

    accepted: int
    duplicates: int
    tokens: dict[str, Token]


class UserAnswer(_Answer):
    """All that is stored of one user, but what a data folder holds."""

    user_id: str
    item_ids: list[str] = Field(description="The history, oldest first.")
    seen_item_ids: list[str] = Field(description="Beside the history: never recommended.")
    token: Token


class ErasedAnswer(_Answer):
    user_id: str
    erased_keys: int


class ItemState(_Request):
    """What may be recommended now. categories: in place of the catalogue's, where given."""

    available: bool = True
    hidden: bool = False
    categories: list[Id] | None = Field(default=None, max_length=50)


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
    vectors: bool = False


class RetrievedItem(_Answer):
    """vector: the item's, of length 1, times 127, as signed bytes in base64: enough for a cosine."""

    item_id: str
    score: Score
    metadata: ItemMetadata | None = None
    vector: str | None = None


def pack(vector_D: np.ndarray) -> str:
    """As RetrievedItem.vector."""
    return base64.b64encode(np.rint(vector_D * 127).astype(np.int8).tobytes()).decode()


def unpack(vectors: Sequence[str]) -> np.ndarray:
    """N x D float32 of length 1 (0 for a vector of zeros). Raises BadAnswer where the lengths differ."""
    try:
        rows_ND = np.stack([np.frombuffer(base64.b64decode(text, validate=True), dtype=np.int8) for text in vectors])
    except ValueError as error:
        raise BadAnswer(f"the item vectors cannot be read: {error}") from None
    lengths_N = np.linalg.norm(rows_ND.astype(np.float32), axis=1, keepdims=True)
    return np.asarray(rows_ND / np.maximum(lengths_N, 1e-12), dtype=np.float32)


class RetrieveAnswer(_Answer):
    """Best first. The history is always excluded. `source` is popularity for a history without a known item."""

    items: list[RetrievedItem]
    source: Literal["retrieval", "popularity"]
    missing_ids: list[str]
    model: str
    catalog: str
    elapsed_ms: float


# Gateway -> retrieval: POST /score and POST /resolve


class ScoreRequest(_Request):
    """The caller's own candidates, scored as retrieval would have."""

    user_id: str | None = None
    history: list[str] = Field(default_factory=list, max_length=MAX_HISTORY)
    item_ids: list[str] = Field(min_length=1, max_length=MAX_LIMIT)
    metadata: bool = False


class ResolveRequest(_Request):
    texts: list[str] = Field(max_length=MAX_DOCUMENTS + MAX_HISTORY)


class ResolveAnswer(_Answer):
    """Per text the item with that id, else the one with that very title, else None."""

    item_ids: list[str | None]


# Gateway -> ranking: POST /rank


class RankRequest(_Request):
    user_id: str | None = None
    history: list[str] = Field(max_length=MAX_HISTORY)
    ranker: RankerName | None = None
    candidates: list[RetrievedItem] = Field(min_length=1, max_length=RERANKED)
    catalog: str = Field(description="Fingerprint of the catalogue that the candidates come from.")
    explain: bool = False


class RankedItem(_Answer):
    item_id: str
    score: Score
    because: list[Because] | None = None


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
    state: ItemState | None = None


class HistoryAnswer(_Answer):
    """Oldest first: the data folder's, then the events'."""

    user_id: str
    item_ids: list[str]


# All three services: GET /models


class ModelCard(_Answer):
    """labels and template: digests of what a prompt's answer and frame are, where the method has them."""

    name: str
    method: str
    catalog: str
    labels: str = ""
    template: str = ""
    metrics: dict[str, float | int | str | None] = Field(default_factory=dict)


class ModelList(_Answer):
    models: list[ModelCard]
    default: RankerName | None = None


# Retrieval and ranking: PUT, GET and DELETE /releases/{release}. Their other routes also stand under that path, bound
# to that release.

ReleaseId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""Names one catalogue, one retriever with its index, and its rankers: what is served together and changed together."""


class ReleaseCard(_Answer):
    """What one service has loaded of a release, after its self-tests. catalog: the fingerprint's first 12 digits."""

    release: str
    catalog: str
    models: list[ModelCard]
    default: RankerName | None = None


class ReleaseList(_Answer):
    """live: what the routes without a release serve."""

    releases: list[ReleaseCard]
    live: str


# The gateway: GET and POST /admin/models, POST /admin/models/rollback, DELETE /admin/models/canary and .../shadow

ExperimentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ServeRequest(_Request):
    """Which release is to be what: live for all users, canary for some, shadow for none."""

    release: ReleaseId
    role: Literal["live", "canary", "shadow"] = Field(alias="as")
    share: float | None = Field(default=None, gt=0, lt=1, description="Of the users, for a canary; 0.1 where absent.")
    experiment: ExperimentName | None = Field(
        default=None, description="Names a canary's split of the users; the release's name where absent."
    )
    drop: list[RankerName] = Field(
        default_factory=list, max_length=8, description="Rankers that the live release has and this one may lack."
    )

    @model_validator(mode="after")
    def _only_a_canary_has_a_share(self) -> ServeRequest:
        if self.role != "canary" and (self.share is not None or self.experiment is not None):
            raise ValueError("share and experiment belong to a canary")
        return self


class ReleaseHealth(_Answer):
    """Of the answers that this gateway made anew (none from the cache) over the last minutes. Shares from 0 to 1."""

    answers: int
    faults: float
    low_confidence: float
    p95_ms: float | None = None


class ServedRelease(_Answer):
    """release: absent for whatever the services started with.  ready: all its parts have answered this gateway."""

    release: str | None = None
    ready: bool
    models: list[str]
    health: ReleaseHealth


class CanaryRelease(ServedRelease):
    share: float
    experiment: str


class ShadowRelease(ServedRelease):
    """Means over the comparisons of the last minutes. tau: Kendall's, over the items that both lists hold."""

    compared: int
    tau: float | None = None
    top1: float | None = None


class RolloutChange(_Answer):
    """release: the one that came, or for an end the one that went."""

    at: datetime
    what: Literal["live", "canary", "shadow", "rollback", "canary_ended", "shadow_ended"]
    release: str | None = None
    by: Literal["operator", "watch"] = "operator"
    reason: str = ""


class RolloutAnswer(_Answer):
    """history: the newest change first.  watched: the live release is new, and goes back by itself should it be worse
    than the previous one.  saved: false while the store of the rollout does not answer and a way back holds here alone.
    problems: what keeps this gateway from serving as it is decided."""

    live: ServedRelease
    previous: ServedRelease | None = None
    canary: CanaryRelease | None = None
    shadow: ShadowRelease | None = None
    watched: bool
    saved: bool
    problems: list[str] = Field(default_factory=list)
    history: list[RolloutChange] = Field(default_factory=list)
