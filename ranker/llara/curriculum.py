"""When a training batch is hybrid: LLaRA's scheduler (section 3.4) and the ablations of its table 4."""

from __future__ import annotations

from typing import Literal

import numpy as np

Curriculum = Literal["curriculum", "direct", "two-stage", "text"]


def hybrid_share(kind: Curriculum, step: int, steps: int) -> float:
    """The probability that the batch of a step, from 0, is hybrid. curriculum: p(t) = t / T (equation 9)."""
    shares = {"curriculum": step / steps, "direct": 1.0, "two-stage": float(2 * step >= steps), "text": 0.0}
    return shares[kind]


def is_hybrid(kind: Curriculum, step: int, steps: int, seed: int) -> bool:
    """The draw of one step; the same in every run of this seed."""
    return bool(np.random.default_rng((seed, 7, step)).random() < hybrid_share(kind, step, steps))
