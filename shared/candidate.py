"""What the stages hand to one another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Source(StrEnum):
    """What put an item at its place in an answer."""

    LLAMAREC = "llamarec"
    RECLLM = "recllm"
    COLLM = "collm"
    TALLREC = "tallrec"
    LLARA = "llara"
    RETRIEVAL = "retrieval"
    POPULARITY = "popularity"
    STATIC = "static"
    PROMOTION = "promotion"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An item as a dense catalogue index, with the score of the stage that produced it (higher is better)."""

    item: int
    score: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """One user's candidates re-scored, best first, and how sure the model was.

    label_mass: probability that the model puts on the labels out of its whole vocabulary, 0..1.
    entropy: of the distribution over the labels, in nats; ln(number of candidates) is no opinion at all.
    notes: what was done otherwise than usual, such as a prompt without the token of a user who is new.
    unblended: what the model alone says, before the retriever's scores are blended in: the log probability of each of
    `candidates`, in their order; empty where the ranker keeps it to itself.
    """

    candidates: tuple[Candidate, ...]
    label_mass: float = 1.0
    entropy: float = 0.0
    notes: tuple[str, ...] = ()
    unblended: tuple[float, ...] = ()
