"""Bodies of the gateway's rankings: POST /recommend, /recommend/batch, /rank and /rerank."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from shared.wire.base import (
    MAX_BATCH,
    MAX_DOCUMENTS,
    MAX_EXCLUDED,
    MAX_HISTORY,
    MAX_LIMIT,
    MAX_PROMOTIONS,
    MAX_TEXT,
    MAX_TIMEOUT_MS,
    Answer,
    Cache,
    Degradation,
    Flag,
    Id,
    RankerChoice,
    Real,
    Request,
    Rung,
    Score,
    Token,
    Variant,
    Whole,
)

# The gateway: POST /recommend


class ItemFilter(Request):
    categories: list[Id] = Field(
        default_factory=list, max_length=50, description="Keep items that have at least one of these."
    )
    availability: Literal["available", "any"] = Field(
        default="available", description="any: also items marked as not available. Hidden ones never come."
    )


class Promotion(Request):
    """Items that the caller wants seen, where they are allowed for this user: one of position and share."""

    item_ids: list[Id] = Field(min_length=1, max_length=100, description="In order of preference.")
    position: Whole | None = Field(
        default=None, ge=1, le=MAX_LIMIT, description="The first allowed item stands at this place."
    )
    share: Real | None = Field(default=None, gt=0, le=1, description="At most this share of the places, spread evenly.")

    @model_validator(mode="after")
    def _one_way(self) -> Promotion:
        if (self.position is None) == (self.share is None):
            raise ValueError("a promotion needs one of position and share")
        return self


class RecommendRequest(Request):
    user_id: Id | None = None
    session_id: Id | None = None
    history: list[Id] | None = Field(
        default=None, max_length=MAX_HISTORY, description="Oldest first. Overrides the stored history."
    )
    limit: Whole = Field(default=10, ge=1, le=MAX_LIMIT)
    ranker: RankerChoice | None = Field(
        default=None,
        description="The server's default where absent. auto: the best one by validation that fits the budget.",
    )
    exclude_item_ids: list[Id] = Field(default_factory=list, max_length=MAX_EXCLUDED)
    filter: ItemFilter = ItemFilter()
    promotions: list[Promotion] = Field(default_factory=list, max_length=MAX_PROMOTIONS)
    diversity: Real = Field(
        default=0, ge=0, le=1, description="Maximal marginal relevance: 0 keeps the order, 1 heeds unlikeness alone."
    )
    include: list[Literal["scores", "metadata", "explain"]] = Field(default_factory=list, max_length=8)
    timeout_ms: Whole | None = Field(default=None, ge=1, le=MAX_TIMEOUT_MS)
    allow_degraded: Flag = True
    after: Token | None = Field(
        default=None, description="The token of POST /events: answer from a history that holds those events."
    )

    @model_validator(mode="after")
    def _someone(self) -> RecommendRequest:
        if self.user_id is None and self.session_id is None and self.history is None:
            raise ValueError("one of user_id, session_id and history is needed")
        return self


class ItemMetadata(Answer):
    title: str
    categories: list[str] = Field(default_factory=list)


class Because(Answer):
    """A history item without which the item would have scored `weight` less (the ranker's own scale)."""

    item_id: str
    weight: Score


class RecommendedItem(Answer):
    item_id: str
    rank: int
    source: str
    score: float | None = None
    retrieval_score: float | None = None
    ranker_score: float | None = Field(
        default=None,
        description="With include scores: the language model's own log probability of the item among those it ranked, "
        "before the blend. By it alone they stand in the model's own order.",
    )
    metadata: ItemMetadata | None = None
    because: list[Because] | None = Field(
        default=None, description="With include explain: measured, the strongest first; empty where nothing helped."
    )


class Models(Answer):
    """`name@version` of what made an answer; None where that stage had no part in it."""

    ranker: str | None = None
    retriever: str | None = None
    catalog: str | None = None


class Timing(Answer):
    """Milliseconds. `queue` and `rank` are the ranking service's own, `total` the gateway's."""

    total: float
    cache: float = 0.0
    retrieval: float = 0.0
    queue: float = 0.0
    rank: float = 0.0


class Experiment(Answer):
    """Present while a canary takes a share of the users; the variant is the one that made this answer."""

    name: str
    variant: Variant


class RecommendAnswer(Answer):
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


class BatchRequest(Request):
    requests: list[RecommendRequest] = Field(min_length=1, max_length=MAX_BATCH)


class BatchEntry(Answer):
    """One of answer and problem, as `status` says."""

    status: int
    answer: RecommendAnswer | None = None
    problem: dict[str, object] | None = None


class BatchAnswer(Answer):
    answers: list[BatchEntry] = Field(description="In the order of the requests.")


class RankItemsRequest(Request):
    """The caller's own candidates. The first 20, in the retriever's order, go to the language model."""

    user_id: Id | None = None
    session_id: Id | None = None
    history: list[Id] | None = Field(default=None, max_length=MAX_HISTORY, description="Oldest first.")
    candidates: list[Id] = Field(min_length=1, max_length=MAX_LIMIT)
    limit: Whole | None = Field(default=None, ge=1, le=MAX_LIMIT, description="All candidates where absent.")
    ranker: RankerChoice | None = None
    include: list[Literal["scores", "metadata", "explain"]] = Field(default_factory=list, max_length=8)
    timeout_ms: Whole | None = Field(default=None, ge=1, le=MAX_TIMEOUT_MS)
    allow_degraded: Flag = True
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
    top_n: Whole | None = Field(default=None, ge=1)
    return_documents: Flag = False


class RerankResult(Answer):
    index: int
    relevance_score: Score
    document: Document | None = None


class Usage(Answer):
    total_tokens: int = 0


class RerankAnswer(Answer):
    """Best first; relevance 0..1, falling. A document that names no item stands last with 0."""

    model: str
    results: list[RerankResult]
    usage: Usage = Usage()
    degraded: bool = False
    degradation: list[Degradation] = Field(default_factory=list)
