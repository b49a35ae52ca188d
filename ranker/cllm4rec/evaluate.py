"""CLLM4Rec's protocol: held-out items of each user among all that it did not train on (section 4.1).

Shapes:  U users  I items  K the k best
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ranker.cllm4rec.rank import RecLLMScorer
from shared.data.holdout import Holdout
from shared.data.split import spaced
from shared.history import History
from shared.progress import progress

CHUNK = 128
DEEP = 100


def best_items(
    scores: Callable[[Sequence[History]], np.ndarray],
    items: int,
    histories: Sequence[History],
    seen: Sequence[np.ndarray],
    what: str | None,
) -> np.ndarray:
    """U x K dense indices, best first, without the items of `seen`; 0 where the catalogue ran out. scores: U x I."""
    best_UK = np.zeros((len(histories), min(DEEP, items)), dtype=np.int64)
    with progress(what, len(histories), "users") as advance:
        for start in range(0, len(histories), CHUNK):
            chunk = histories[start : start + CHUNK]
            scores_UI = scores(chunk)
            for scores_I, out in zip(scores_UI, seen[start : start + CHUNK], strict=True):
                scores_I[np.asarray(out, dtype=int) - 1] = -np.inf
            order_UK = np.argsort(-scores_UI, axis=1, kind="stable")[:, : best_UK.shape[1]]
            real_UK = np.isfinite(np.take_along_axis(scores_UI, order_UK, axis=1))
            best_UK[start : start + len(chunk)] = np.where(real_UK, order_UK + 1, 0)
            advance(len(chunk))
    return best_UK


def by_recllm(scorer: RecLLMScorer) -> Callable[[Sequence[History]], np.ndarray]:
    table_DI = scorer.item_table.float().cpu().numpy().T
    return lambda histories: scorer.encode(histories) @ table_DI


def recall(best_UK: Sequence[np.ndarray] | np.ndarray, truths: Sequence[np.ndarray], k: int) -> np.ndarray:
    """Per user: hits among the first k, out of min(k, number of truths)."""
    hits_U = [np.isin(row[:k], truth).sum() / min(k, len(truth)) for row, truth in zip(best_UK, truths, strict=True)]
    return np.array(hits_U)


def ndcg(best_UK: Sequence[np.ndarray] | np.ndarray, truths: Sequence[np.ndarray], k: int) -> np.ndarray:
    """Per user, binary gains; the ideal list holds all truths first."""
    discount_K = 1 / np.log2(np.arange(2, k + 2))
    return np.array(
        [
            (np.isin(row[:k], truth) * discount_K[: len(row[:k])]).sum() / discount_K[: min(k, len(truth))].sum()
            for row, truth in zip(best_UK, truths, strict=True)
        ]
    )


def measured(best_UK: Sequence[np.ndarray] | np.ndarray, truths: Sequence[np.ndarray]) -> dict[str, float]:
    return {
        "recall@20": float(recall(best_UK, truths, 20).mean()),
        "recall@40": float(recall(best_UK, truths, 40).mean()),
        "ndcg@100": float(ndcg(best_UK, truths, DEEP).mean()),
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """seen: what must not come back; a truth that the user had before stays possible."""

    histories: list[History]
    seen: list[np.ndarray]
    truths: list[np.ndarray]


def ask(parts: Holdout, user_ids: Sequence[str], part: Literal["valid", "test"], users: int = 0) -> Asked:
    """Users with something held out in `part`, evenly spaced down to `users`; 0 for all. The test sees the validation
    items too."""
    truths = parts.valid if part == "valid" else parts.test
    rows = [u for u, truth in enumerate(truths) if len(truth)]
    rows = [rows[place] for place in spaced(len(rows), users)]
    shown = [parts.train[u] if part == "valid" else np.concatenate([parts.train[u], parts.valid[u]]) for u in rows]
    histories = [History(tuple(items.tolist()), user_ids[u]) for u, items in zip(rows, shown, strict=True)]
    seen = [items[~np.isin(items, truths[u])] for u, items in zip(rows, shown, strict=True)]
    return Asked(histories, seen, [truths[u] for u in rows])


def report(scorer: RecLLMScorer, parts: Holdout, user_ids: Sequence[str], users: int = 0) -> dict[str, Any]:
    asked, items = ask(parts, user_ids, "test", users), len(scorer.item_table)
    counts = np.bincount(np.concatenate(parts.train), minlength=items + 1).astype(float)
    popular = np.argsort(-counts[1:], kind="stable") + 1
    unseen = [popular[~np.isin(popular, out)][:DEEP] for out in asked.seen]
    best_UK = best_items(by_recllm(scorer), items, asked.histories, asked.seen, "recllm")
    rows = {"popularity": measured(unseen, asked.truths), "recllm": measured(best_UK, asked.truths)}
    return {"protocol": "cllm4rec", "users": len(asked.histories), "rows": rows}
