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
from ranker.blend import blend, fit
from ranker.blend import report as blend_report
from ranker.llara.batches import Slate, fixed_slates
from ranker.llara.generate import generate, named, told_titles
from ranker.llara.rank import LLaRAScorer
from ranker.llara.recipes import LLaRAConfig
from ranker.opinion import Scorer
from shared.data.pairs import NextData, left_padded
from shared.history import History

Z = 1.96
CHUNK = 256
"""Slates whose scores of all items are held at once."""


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


def opinions(scorer: Scorer, slates: Sequence[Slate]) -> np.ndarray:
    """Log likelihoods U x C of the candidates, by which serving orders them; -inf beyond a short slate's end."""
    told = scorer.score([History(tuple(s.history)) for s in slates], [s.candidates for s in slates])
    return _padded([opinion.logits_C for opinion in told])


@torch.no_grad()
def behaviour_scores(behaviour: Behaviour, slates: Sequence[Slate]) -> np.ndarray:
    """U x C, of the sequential model alone; -inf beyond a short slate's end."""
    found = []
    for start in range(0, len(slates), CHUNK):
        chunk = slates[start : start + CHUNK]
        histories = left_padded([s.history for s in chunk], behaviour.sizes.window)
        scores_BV = next_scores(behaviour, torch.from_numpy(histories).long().to(behaviour.known_items_V.device)).cpu()
        found += [scores_V[s.candidates].double().numpy() for scores_V, s in zip(scores_BV, chunk, strict=True)]
    return _padded(found)


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    scores_UC = np.full((len(rows), max(map(len, rows), default=1)), -np.inf)
    for row, scores_C in zip(scores_UC, rows, strict=True):
        row[: len(scores_C)] = scores_C
    return scores_UC


def right_places(slates: Sequence[Slate]) -> np.ndarray:
    return np.array([s.right for s in slates])


def first(scores_UC: np.ndarray) -> list[int]:
    """The place of each slate's best candidate; of several the first."""
    places: list[int] = scores_UC.argmax(-1).tolist()
    return places


def measured(places: Sequence[int | None], slates: Sequence[Slate]) -> dict[str, dict[str, float]]:
    hits = sum(place == slate.right for place, slate in zip(places, slates, strict=True))
    valid = sum(place is not None for place in places)
    return {"hit_ratio@1": asdict(share(hits, len(slates))), "valid_ratio": asdict(share(valid, len(slates)))}


def report(scorer: LLaRAScorer, data: NextData, config: LLaRAConfig, users: int = 0) -> dict[str, Any]:
    """Rows: the answer generated (the paper's), by likelihood as served, the sequential model alone, and both blended.

    The blend is the one that serving fits to a retriever, here fitted to the sequential model on validation slates.
    users: at most this many rows of either part, the first ones; 0 for all.
    """
    model = scorer.model
    valid, slates = (
        fixed_slates(part, len(data.catalog), None, config)[: users or None] for part in (data.valid, data.test)
    )
    behaviour_UC, told_UC = behaviour_scores(model.behaviour, slates), opinions(scorer, slates)
    rows = {"sequential model": measured(first(behaviour_UC), slates), "as served": measured(first(told_UC), slates)}
    blended: dict[str, Any] = {}
    if valid:
        valid_UC = behaviour_scores(model.behaviour, valid)
        fitted = fit(valid_UC, opinions(scorer, valid), right_places(valid), config.seed)
        rows["blended"] = measured(first(blend(behaviour_UC, told_UC, fitted.weight)), slates)
        blended["blend"] = {"weight": fitted.weight, "slates": len(valid)} | blend_report(fitted)
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
    } | blended
