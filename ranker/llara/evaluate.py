"""HitRatio@1 and ValidRatio on fixed slates (section 4.1.2), with Wilson's 95 % intervals: the test sets are small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ranker.behaviour.fit import next_scores
from ranker.behaviour.model import Behaviour
from ranker.llara.batches import Slate, fixed_slates
from ranker.llara.generate import generate, named, told_titles
from ranker.llara.rank import LLaRAScorer
from ranker.llara.recipes import LLaRAConfig
from ranker.opinion import Scorer
from shared.data.pairs import NextData, left_padded
from shared.history import History

Z = 1.96


@dataclass(frozen=True, slots=True)
class Share:
    value: float
    low: float
    high: float


def share(hits: int, total: int) -> Share:
    """Wilson (1927)."""
    if not total:
        return Share(float("nan"), 0.0, 1.0)
    p = hits / total
    centre = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * math.sqrt(p * (1 - p) / total + Z**2 / (4 * total**2))
    return Share(p, max(0.0, centre - half), min(1.0, centre + half))


def by_score(scorer: Scorer, slates: Sequence[Slate]) -> list[int]:
    """The place of the candidate that serving would put first."""
    told = scorer.score([History(tuple(s.history)) for s in slates], [s.candidates for s in slates])
    return [int(np.argmax(opinion.logits_C)) for opinion in told]


@torch.no_grad()
def by_behaviour(behaviour: Behaviour, slates: Sequence[Slate]) -> list[int]:
    histories = left_padded([s.history for s in slates], behaviour.sizes.window)
    scores_BV = next_scores(behaviour, torch.from_numpy(histories).long().to(behaviour.known_items_V.device)).cpu()
    return [int(scores_V[s.candidates].argmax()) for scores_V, s in zip(scores_BV, slates, strict=True)]


def measured(places: Sequence[int | None], slates: Sequence[Slate]) -> dict[str, dict[str, float]]:
    hits = sum(place == slate.right for place, slate in zip(places, slates, strict=True))
    valid = sum(place is not None for place in places)
    return {"hit_ratio@1": asdict(share(hits, len(slates))), "valid_ratio": asdict(share(valid, len(slates)))}


def report(scorer: LLaRAScorer, data: NextData, config: LLaRAConfig, users: int = 0) -> dict[str, Any]:
    """Rows: the answer generated (the paper's), the answer as served, and the sequential model alone.

    users: at most this many rows, the first ones; 0 for all.
    """
    model = scorer.model
    slates = fixed_slates(data.test, len(data.catalog), None, config)[: users or None]
    rows = {"sequential model": measured(by_behaviour(model.behaviour, slates), slates)}
    rows["as served"] = measured(by_score(scorer, slates), slates)
    if model.prompts.answer == "title":
        answers = generate(model, slates, scorer.hybrid, "generate")
        places = [named(answer, told_titles(model, slate)) for answer, slate in zip(answers, slates, strict=True)]
        rows["generated"] = measured(places, slates)
    return {
        "protocol": "llara",
        "data": {"name": data.name, "digest": data.digest},
        "slates": len(slates),
        "seed": config.seed,
        "rows": rows,
    }
