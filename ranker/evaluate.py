"""Candidates to be re-ranked, and what a label-scoring ranker says of them.

Shapes:  U users  C candidates, in retriever order
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ranker.engines.protocol import Engine
from ranker.prompt import PromptBuilder
from ranker.verbalizer import letters
from shared.artifact import Manifest
from shared.data.split import Case
from shared.errors import BadInput
from shared.history import History
from shared.progress import progress
from shared.protocols import Retriever

CHUNK = 64
CANDIDATES = 20
"""Of the retriever, over which a blend is fitted and measured."""


@dataclass(frozen=True, slots=True)
class Questions:
    """items_UC: dense indices, 0 where the catalogue ran out. scores_UC: the retriever's, -inf there.

    truth_U: the truth's column, or -1 where the retriever missed it and no ranker can find it.
    user_ids: for rankers that know users; empty where nobody is named.
    """

    histories: list[np.ndarray]
    items_UC: np.ndarray
    scores_UC: np.ndarray
    truth_U: np.ndarray
    user_ids: tuple[str, ...] = ()

    def history(self, row: int) -> History:
        return History(tuple(self.histories[row].tolist()), self.user_ids[row] if self.user_ids else None)

    def take(self, rows: np.ndarray) -> Questions:
        """Some of the users."""
        histories = [self.histories[row] for row in rows]
        named = tuple(self.user_ids[row] for row in rows) if self.user_ids else ()
        return Questions(histories, self.items_UC[rows], self.scores_UC[rows], self.truth_U[rows], named)

    def reorder(self, order_UC: np.ndarray) -> Questions:
        """The same candidates listed otherwise: place p of user u shows what stood at order_UC[u, p]."""
        truth_U = np.where(self.truth_U >= 0, (order_UC == self.truth_U[:, None]).argmax(1), -1)
        items_UC = np.take_along_axis(self.items_UC, order_UC, axis=1)
        scores_UC = np.take_along_axis(self.scores_UC, order_UC, axis=1)
        return Questions(self.histories, items_UC, scores_UC, truth_U, self.user_ids)


def require_held_out(manifest: Manifest) -> None:
    """Raises BadInput for a ranker that trained on most of what a retriever's candidates are measured by."""
    if manifest.config.get("split") == "random":
        raise BadInput(
            f"{manifest.name} was trained with split=random: it has seen most users' last items, so no blend and no "
            "row over a retriever's candidates would mean anything. Evaluate it with --protocol cllm4rec, or train one "
            "with split=last."
        )


def spread(everyone: list[Case], wanted: int) -> list[Case]:
    """Evenly spaced, at least as many as wanted; 0 is all."""
    return everyone[:: max(1, len(everyone) // wanted)] if wanted else everyone


def ask(retriever: Retriever, cases: Sequence[Case], candidates: int, users: Sequence[str] = ()) -> Questions:
    """The retriever's best per case, the whole history excluded as in serving: a truth that is in it is missed.

    users: all user ids, by Case.user.
    """
    items_UC = np.zeros((len(cases), candidates), dtype=np.int64)
    scores_UC = np.full((len(cases), candidates), -np.inf, dtype=np.float32)
    for start in range(0, len(cases), 1024):
        chunk = cases[start : start + 1024]
        exclude = [np.unique(case.history) for case in chunk]
        found = retriever.retrieve(
            [History(tuple(case.history.tolist())) for case in chunk],
            candidates,
            exclude,  # type: ignore[arg-type]
        )
        for row, best in enumerate(found, start=start):
            items_UC[row, : len(best)] = [c.item for c in best]
            scores_UC[row, : len(best)] = [c.score for c in best]
    return questions(cases, items_UC, scores_UC, users)


def questions(
    cases: Sequence[Case], items_UC: np.ndarray, scores_UC: np.ndarray, users: Sequence[str] = ()
) -> Questions:
    found_UC = items_UC == np.array([case.truth for case in cases])[:, None]
    truth_U = np.where(found_UC.any(1), found_UC.argmax(1), -1)
    named = tuple(users[case.user] for case in cases) if users else ()
    return Questions([case.history for case in cases], items_UC, scores_UC, truth_U, named)


def score(
    engine: Engine, builder: PromptBuilder, asked: Questions, what: str | None, only_found: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Label logits U x C (-inf for a missing candidate) and label mass U, of all of the builder's labels.

    only_found: users whose truth is not among the candidates count 0 whatever the order, so they are left
    out (logits 0, mass nan), which spares two thirds of the forwards.
    """
    users = len(asked.items_UC)
    logits_UC = np.where(asked.items_UC > 0, 0.0, -np.inf)
    mass_U = np.full(users, np.nan)
    rows = np.flatnonzero(asked.truth_U >= 0) if only_found else np.arange(users)
    with progress(what, len(rows), "prompts") as advance:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            real = [asked.items_UC[u] > 0 for u in chunk]
            told = letters(
                engine,
                builder,
                [asked.histories[u].tolist() for u in chunk],
                [asked.items_UC[u][here].tolist() for u, here in zip(chunk, real, strict=True)],
                [asked.scores_UC[u][here].tolist() for u, here in zip(chunk, real, strict=True)],
            )
            for u, here, one in zip(chunk, real, told, strict=True):
                logits_UC[u, here], mass_U[u] = one.logits_C, one.mass
            advance(len(chunk))
    return logits_UC, mass_U
