"""How much a ranking depends on the order in which the candidates are listed. A ranker that reads titles and not
places gives tau 1 and the same NDCG under every order.

Shapes:  U users  C candidates
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ranker.blend import truth_ranks
from ranker.engines.protocol import Engine
from ranker.evaluate import Questions, score
from ranker.prompt import PromptBuilder
from shared import metrics
from shared.data.split import spaced

RANDOM_ORDERS = 5


@dataclass(frozen=True, slots=True)
class Order:
    """kendall_tau: with the ranking of retriever order, mean over users. ndcg: NDCG@10 of the model alone."""

    name: str
    kendall_tau: float
    ndcg: float
    first_label_share: float
    """How often the first listed candidate comes out on top; 1 / C where places do not matter."""


def order_sensitivity(engine: Engine, builder: PromptBuilder, asked: Questions, seed: int, users: int) -> list[Order]:
    """Over at most `users` users whose truth is among the candidates, evenly spaced."""
    found = np.flatnonzero(asked.truth_U >= 0)
    asked = asked.take(found[spaced(len(found), users)])
    rng = np.random.default_rng(seed)
    width = asked.items_UC.shape[1]
    same = np.tile(np.arange(width), (len(asked.truth_U), 1))
    orders = {"retriever": same, "reversed": same[:, ::-1]}
    for i in range(RANDOM_ORDERS):
        orders[f"random {i + 1}"] = rng.permuted(same, axis=1)
    answers: list[Order] = []
    reference_UC = np.empty(0)
    for name, order_UC in orders.items():
        logits_UC, _ = score(engine, builder, asked.reorder(order_UC), f"order: {name}")
        first = float((logits_UC.argmax(1) == 0).mean())
        back_UC = np.empty_like(logits_UC)
        np.put_along_axis(back_UC, order_UC, logits_UC, axis=1)
        reference_UC = back_UC if name == "retriever" else reference_UC
        ndcg = float(metrics.ndcg(truth_ranks(back_UC, asked.truth_U), 10).mean())
        answers.append(Order(name, kendall_tau(reference_UC, back_UC), ndcg, first))
    return answers


def kendall_tau(a_UC: np.ndarray, b_UC: np.ndarray) -> float:
    """Mean over users of (concordant - discordant pairs) / pairs; a tie counts as neither. nan without users."""
    upper = np.triu_indices(a_UC.shape[1], k=1)
    a_UP = np.sign(a_UC[:, upper[0]] - a_UC[:, upper[1]])
    b_UP = np.sign(b_UC[:, upper[0]] - b_UC[:, upper[1]])
    return float(np.nanmean(a_UP * b_UP)) if len(a_UC) else float("nan")
