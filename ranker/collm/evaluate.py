"""CoLLM's protocol: AUC and UAUC on labelled pairs, warm and cold apart (section 5.1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from ranker.behaviour.fit import FitConfig, fit_pairs, pair_logits, select
from ranker.behaviour.model import Sizes
from ranker.collm.batches import slates
from ranker.collm.model import asked_of
from ranker.collm.rank import CoLLMScorer
from shared import metrics
from shared.data.pairs import PairData, Pairs
from shared.data.split import spaced
from shared.errors import BadInput
from shared.progress import progress

WIDTHS = {"mf": 256, "svdpp": 64, "lightgcn": 64, "sasrec": 64, "din": 64}
"""Of the collaborative models (section 5.1.4; SVD++ is ours)."""
DECAYS = (1e-3, 1e-2, 1e-1)
CHUNK = 64
"""Prompts of one call."""
PRIOR = 5
"""Pairs of the mean label that every item begins with, where nothing but items is told apart."""


def report(scorer: CoLLMScorer, data: PairData, users: int = 0, shared: bool = False, seed: int = 42) -> dict[str, Any]:
    """Rows of the artifact, of its text-only prompt (TALLRec, where LoRA was frozen after step one) and of its
    collaborative model, each over all test pairs, the warm and the cold; and what the first gains over the last.

    users: at most this many, evenly spaced; 0 for all. shared: step one is another artifact's, which has the row of
    text alone. seed: of the users who are drawn for the intervals.
    """
    model, test = scorer.model, data.test
    if users:
        everyone = np.unique(test.users_N)
        test = test.take(np.flatnonzero(np.isin(test.users_N, everyone[spaced(len(everyone), users)])))
    found: dict[str, Any] = {
        "protocol": "collm",
        "data": {"name": data.name, "digest": data.digest},
        "pairs": len(test),
        "rows": {},
    }
    if not shared:
        found["rows"]["text only"] = measured(test, _scores(scorer, test, False), seed)
    if model.behaviour is not None:
        hybrid_N, alone_N = _scores(scorer, test, True), pair_logits(model.behaviour, test)
        found["rows"] |= {
            "hybrid": measured(test, hybrid_N, seed),
            "collaborative model": measured(test, alone_N, seed),
        }
        found["gain"] = gained(test, hybrid_N, alone_N, seed)
    return found


def _scores(scorer: CoLLMScorer, test: Pairs, hybrid: bool) -> np.ndarray:
    """Yes logits N, as served: a user's pairs of one history share their prompt's beginning."""
    logits_N, rows = np.zeros(len(test)), slates(test)
    with progress("hybrid" if hybrid else "text only", len(test), "pairs") as advance:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            for slate, yes_C in zip(chunk, scorer.yes(asked_of(test, chunk), hybrid), strict=True):
                logits_N[slate] = yes_C
            advance(sum(map(len, chunk)))
    return logits_N


def collaborative(
    data: PairData, names: Sequence[str], window: int, seed: int, decays: Sequence[float] = DECAYS, epochs: int = 100
) -> dict[str, Any]:
    """Rows of the collaborative models alone, trained here; validation AUC chooses the weight decay. And of the items'
    mean labels: what anybody knows who cannot tell users apart. Raises BadInput for an unknown name."""
    for name in names:
        if name not in WIDTHS:
            raise BadInput(f"{name!r} is no collaborative model of CoLLM's; there are {', '.join(WIDTHS)}")
    rows, fitted = {"item mean": measured(data.test, item_means(data.train, data.test), seed)}, {}
    for name in names:
        sizes = Sizes(users=len(data.user_ids), items=len(data.catalog), width=WIDTHS[name], window=window)
        fit = partial(fit_pairs, name, sizes, data.train, data.valid, device=torch.device("cpu"))
        chosen = select(fit, FitConfig(seed=seed, epochs=epochs), decays)
        rows[name] = measured(data.test, pair_logits(chosen.model, data.test), seed)
        fitted[name] = {"valid_auc": chosen.score, "weight_decay": chosen.weight_decay, "width": WIDTHS[name]}
    return {
        "protocol": "collm",
        "data": {"name": data.name, "digest": data.digest},
        "pairs": len(data.test),
        "seed": seed,
        "window": window,
        "decays": list(decays),
        "fitted": fitted,
        "rows": rows,
    }


def item_means(train: Pairs, test: Pairs) -> np.ndarray:
    """Per pair of `test` the mean label of its item in `train`, smoothed."""
    most = int(max(train.items_N.max(), test.items_N.max())) + 1
    seen_I = np.bincount(train.items_N, minlength=most)
    liked_I = np.bincount(train.items_N, weights=train.labels_N, minlength=most)
    return ((liked_I + PRIOR * float(train.labels_N.mean())) / (seen_I + PRIOR))[test.items_N]


def measured(pairs: Pairs, scores_N: np.ndarray, seed: int) -> dict[str, dict[str, Any]]:
    """AUC and UAUC over all pairs, the warm and the cold, with 95 % intervals over users."""
    parts = {"all": np.ones(len(pairs), dtype=bool), "warm": pairs.warm_N, "cold": ~pairs.warm_N}
    found = {}
    for name, here_N in parts.items():
        if here_N.any():
            asked = pairs.users_N[here_N], pairs.labels_N[here_N], scores_N[here_N]
            auc_R, uauc_R = metrics.resampled_auc(*asked, seed)
            found[name] = {
                "pairs": int(here_N.sum()),
                "auc": metrics.auc(*asked[1:]),
                "uauc": metrics.uauc(*asked),
                "auc_95": metrics.interval(auc_R),
                "uauc_95": metrics.interval(uauc_R),
            }
    return found


def gained(pairs: Pairs, scores_N: np.ndarray, over_N: np.ndarray, seed: int) -> dict[str, dict[str, Any]]:
    """What one has over the other, of all pairs, with the interval of the difference over the same users."""
    asked = pairs.users_N, pairs.labels_N
    ours, theirs = (metrics.resampled_auc(*asked, one_N, seed) for one_N in (scores_N, over_N))
    points = (
        metrics.auc(pairs.labels_N, scores_N) - metrics.auc(pairs.labels_N, over_N),
        metrics.uauc(*asked, scores_N) - metrics.uauc(*asked, over_N),
    )
    return {
        name: {"mean": point, "interval": metrics.interval(our_R - their_R)}
        for name, point, our_R, their_R in zip(("auc", "uauc"), points, ours, theirs, strict=True)
    }
