"""One question and its scores, kept with the weights: whatever loads must answer it as training did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ranker.blend import log_softmax
from ranker.opinion import Scorer
from shared.artifact import Manifest
from shared.errors import GoldenMismatch
from shared.history import History

TOLERANCE = 0.35
"""In log probability over the candidates, on those that hold 1 % or more: what bfloat16 and float32 differ by, and
adapters of other weights exceed (ranker/registry.py)."""
TITLE_TOLERANCE = 1.0
"""For sums over a title's tokens, each of which may be off: .2 to .4 from one bfloat16 kernel to another."""


def make(scorer: Scorer, history: History, items: Sequence[int]) -> dict[str, Any]:
    [opinion] = scorer.score([history], [items])
    return {
        "history": list(history.items),
        "user_id": history.user_id,
        "items": list(items),
        "logits": [round(float(x), 4) for x in opinion.logits_C],
    }


def check(scorer: Scorer, manifest: Manifest, folder: Path, tolerance: float = TOLERANCE) -> None:
    """Raises GoldenMismatch."""
    golden = manifest.extra["golden"]
    history = History(tuple(golden["history"]), golden["user_id"])
    [opinion] = scorer.score([history], [golden["items"]])
    expected_C, actual_C = log_softmax(np.array(golden["logits"])), log_softmax(np.asarray(opinion.logits_C, float))
    likely_C = np.exp(expected_C) >= 0.01
    worst = float(np.abs(expected_C - actual_C)[likely_C].max())
    if not worst <= tolerance:
        raise GoldenMismatch(
            f"the ranker in {folder} does not reproduce its golden score: off by {worst:.2f} in log probability, "
            f"{tolerance} allowed. Its backbone is not {manifest.config['backbone']!r} as it was trained on."
        )
