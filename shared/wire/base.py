"""What the bodies of all three HTTP APIs share: bounds, kinds of text, and what a request and an answer are.

Every request model forbids unknown fields, and every list and string has a bound.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

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
RankerChoice = Literal[RankerName, "auto"]
Whole = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Real = Annotated[float, Field(strict=True)]
"""Of JSON, as it is written: "3" is no number, and 1 is not true."""
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


class Request(BaseModel):
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


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
