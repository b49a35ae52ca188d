"""Bodies between the gateway and the two services: retrieve, score, resolve, rank, models and releases."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, StringConstraints

from shared.errors import BadAnswer
from shared.wire.base import (
    MAX_DOCUMENTS,
    MAX_EXCLUDED,
    MAX_HISTORY,
    MAX_LIMIT,
    MAX_SEEN,
    RERANKED,
    Answer,
    RankerName,
    Request,
    Score,
)
from shared.wire.recommend import Because, ItemMetadata

# Gateway -> retrieval: POST /retrieve. What comes from our own stores is bounded by the size of the body alone: an
# odd id in a data folder must not turn into an error for the user who has it.


class RetrieveRequest(Request):
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


class RetrievedItem(Answer):
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


class RetrieveAnswer(Answer):
    """Best first. The history is always excluded. `source` is popularity for a history without a known item."""

    items: list[RetrievedItem]
    source: Literal["retrieval", "popularity"]
    missing_ids: list[str]
    model: str
    catalog: str
    elapsed_ms: float


# Gateway -> retrieval: POST /score and POST /resolve


class ScoreRequest(Request):
    """The caller's own candidates, scored as retrieval would have."""

    user_id: str | None = None
    history: list[str] = Field(default_factory=list, max_length=MAX_HISTORY)
    item_ids: list[str] = Field(min_length=1, max_length=MAX_LIMIT)
    metadata: bool = False


class ResolveRequest(Request):
    texts: list[str] = Field(max_length=MAX_DOCUMENTS + MAX_HISTORY)


class ResolveAnswer(Answer):
    """Per text the item with that id, else the one with that very title, else None."""

    item_ids: list[str | None]


# Gateway -> ranking: POST /rank


class RankRequest(Request):
    user_id: str | None = None
    history: list[str] = Field(max_length=MAX_HISTORY)
    ranker: RankerName | None = None
    candidates: list[RetrievedItem] = Field(min_length=1, max_length=RERANKED)
    catalog: str = Field(description="Fingerprint of the catalogue that the candidates come from.")
    explain: bool = False


class RankedItem(Answer):
    """ranker_score: the language model's own log probability, before the blend."""

    item_id: str
    score: Score
    ranker_score: Score | None = None
    because: list[Because] | None = None


class RankAnswer(Answer):
    """The candidates re-scored, best first. label_mass 0..1, entropy in nats."""

    items: list[RankedItem]
    model: str
    ranker: RankerName
    label_mass: Score
    entropy: Score
    queue_ms: float
    rank_ms: float


# All three services: GET /models


class ModelCard(Answer):
    """labels and template: digests of what a prompt's answer and frame are, where the method has them."""

    name: str
    method: str
    catalog: str
    labels: str = ""
    template: str = ""
    metrics: dict[str, float | int | str | None] = Field(default_factory=dict)


class ModelList(Answer):
    models: list[ModelCard]
    default: RankerName | None = None


# Retrieval and ranking: PUT, GET and DELETE /releases/{release}. Their other routes also stand under that path, bound
# to that release.

ReleaseId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""Names one catalogue, one retriever with its index, and its rankers: what is served together and changed together."""


class ReleaseCard(Answer):
    """What one service has loaded of a release, after its self-tests. catalog: the fingerprint's first 12 digits."""

    release: str
    catalog: str
    models: list[ModelCard]
    default: RankerName | None = None


class ReleaseList(Answer):
    """live: what the routes without a release serve."""

    releases: list[ReleaseCard]
    live: str
