"""How much a candidate's title has in common with the titles of a history: the cosine of their tokens, rare ones first
(tf-idf; Salton and Buckley, 1988).

A teacher for a small language model: without noise, and what it teaches, comparing titles, is what a retriever that
knows items by their numbers alone cannot do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ranker.evaluate import Questions
from ranker.prompt import PromptBuilder


class Likeness:
    """titles: tokens by dense index, as the prompt shows them; the first one is nobody's."""

    def __init__(self, titles: Sequence[Sequence[int]]) -> None:
        sets = [set(title) for title in titles]
        seen = np.bincount([token for tokens in sets for token in tokens], minlength=1)
        self._weights = [_unit({token: float(np.log(len(titles) / seen[token])) for token in one}) for one in sets]

    def of(self, history: Sequence[int], candidates: Sequence[int]) -> np.ndarray:
        """Per candidate the mean cosine with the items of the history; 0 to 1."""
        told: dict[int, float] = {}
        for item in history:
            for token, weight in self._weights[item].items():
                told[token] = told.get(token, 0.0) + weight / len(history)
        common = [sum(w * told.get(token, 0.0) for token, w in self._weights[item].items()) for item in candidates]
        return np.array(common, dtype=np.float32)


def opinion(asked: Questions, builder: PromptBuilder, sharpness: float) -> np.ndarray:
    """What the teacher alone would say: logits U x C, -inf for a missing candidate."""
    likeness = Likeness(builder.titles)
    logits_UC = np.full(asked.items_UC.shape, -np.inf)
    for row, (history, items_C) in enumerate(zip(asked.histories, asked.items_UC, strict=True)):
        real_C = items_C > 0
        shown = history[-builder.max_history :].tolist() if builder.max_history else []
        logits_UC[row, real_C] = sharpness * likeness.of(shown, items_C[real_C].tolist())
    return logits_UC


def _unit(weights: dict[int, float]) -> dict[int, float]:
    length = sum(weight**2 for weight in weights.values()) ** 0.5
    return {token: weight / length for token, weight in weights.items()} if length else {}
