"""CoLLM's protocol: AUC and UAUC on labelled pairs, warm and cold apart (section 5.1.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ranker.behaviour.fit import pair_logits
from ranker.collm.rank import CoLLMScorer
from ranker.collm.train import score_pairs
from shared import metrics
from shared.data.pairs import PairData, Pairs


def report(scorer: CoLLMScorer, data: PairData, users: int = 0) -> dict[str, Any]:
    """Rows of the artifact, of its text-only prompt (TALLRec, where LoRA was frozen after step one) and of its
    collaborative model, each over all test pairs, the warm and the cold.

    users: at most this many, evenly spaced; 0 for all.
    """
    model, test = scorer.model, data.test
    if users:
        everyone = np.unique(test.users_N)
        some = everyone[:: max(1, len(everyone) // users)][:users]
        test = test.take(np.flatnonzero(np.isin(test.users_N, some)))
    rows = {"text only": measured(test, score_pairs(model, test, False, "text only"))}
    if model.behaviour is not None:
        rows["hybrid"] = measured(test, score_pairs(model, test, True, "hybrid"))
        rows["collaborative model"] = measured(test, pair_logits(model.behaviour, test))
    return {"protocol": "collm", "data": {"name": data.name, "digest": data.digest}, "pairs": len(test), "rows": rows}


def measured(pairs: Pairs, scores_N: np.ndarray) -> dict[str, dict[str, float]]:
    parts = {"all": np.ones(len(pairs), dtype=bool), "warm": pairs.warm_N, "cold": ~pairs.warm_N}
    return {
        name: {
            "pairs": int(here_N.sum()),
            "auc": metrics.auc(pairs.labels_N[here_N], scores_N[here_N]),
            "uauc": metrics.uauc(pairs.users_N[here_N], pairs.labels_N[here_N], scores_N[here_N]),
        }
        for name, here_N in parts.items()
        if here_N.any()
    }
