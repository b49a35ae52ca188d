"""What the letters after one or several prompts of a user say of his candidates.

Shapes:  C candidates  Q prompts of one user  K labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ranker.engines.protocol import Engine
from ranker.engines.told import in_common
from ranker.prompt import PromptBuilder, ranks_of


@dataclass(frozen=True, slots=True)
class Letters:
    """logits_C: raw logits of the candidates' letters after a prompt alone; of several the log of the mean of their
    probabilities, each among the candidates; zeros where nothing was asked. mass: the share of the whole vocabulary
    that all letters hold; 0 where nothing was asked, so that nobody takes it for an opinion."""

    logits_C: np.ndarray
    mass: float


def letters(
    engine: Engine,
    builder: PromptBuilder,
    histories: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float]],
    keep: bool = False,
) -> list[Letters]:
    """Per user, in one call of the engine. candidates: at least one each. scores: the retriever's. keep: users are
    likely to be asked about again, with other candidates."""
    prompts: list[list[int]] = []
    counts, kept = [], []
    for history, listed, given in zip(histories, candidates, scores, strict=True):
        own = builder.prompts(history, listed, ranks_of(given))
        counts.append(len(own))
        prompts += own
        again = keep and not builder.template.asks
        kept += [in_common(own[0], builder.build(history, [])) if again else 0] * len(own)
    if not prompts:
        return [Letters(np.zeros(len(listed), dtype=np.float32), 0.0) for listed in candidates]
    told = engine.label_logits(prompts, builder.labels, keep=kept)
    answers, at = [], 0
    for count, listed in zip(counts, candidates, strict=True):
        logits_QC = told.logits_BK[at : at + count, : len(listed)]
        mass = float(told.mass_B[at : at + count].mean()) if count else 0.0
        answers.append(Letters(mean(logits_QC), mass))
        at += count
    return answers


def mean(logits_QC: np.ndarray) -> np.ndarray:
    """Of the probabilities, as a logarithm; one prompt's logits stay as they are, and of none there are zeros."""
    if len(logits_QC) == 1:
        return logits_QC[0]
    if not len(logits_QC):
        return np.zeros(logits_QC.shape[1], dtype=np.float32)
    log_QC = logits_QC - np.logaddexp.reduce(logits_QC, axis=1, keepdims=True)
    return np.asarray(np.logaddexp.reduce(log_QC, axis=0) - np.log(len(logits_QC)))
