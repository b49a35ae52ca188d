"""Slates: a history, the item that came next, and wrong candidates around it. Slate n depends on seed and n alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ranker.descent import rows_at
from ranker.llara.recipes import LLaRAConfig
from shared.data.llara import windows
from shared.data.pairs import NextData, Nexts, left_padded, real
from shared.data.prepared import Prepared
from shared.data.split import cases, train_sequence
from shared.history import History
from shared.protocols import Retriever

POOL = 20
TRAIN, FIXED = 1, 2


@dataclass(frozen=True, slots=True)
class Slate:
    """right: the place of the next item among the candidates, which stand in random order."""

    history: list[int]
    candidates: list[int]
    right: int


def nexts_of(data: Prepared, config: LLaRAConfig) -> NextData:
    """train: every window of the training sequences. valid, test: what Tandem holds out."""
    train = windows([train_sequence(s) for s in data.sequences()], config.history, config.shortest)
    parts = {}
    for part in ("valid", "test"):
        held = list(cases(data, part))
        histories = left_padded([case.history for case in held], config.history)
        parts[part] = Nexts(histories, np.array([case.truth for case in held], dtype=np.int64))
    return NextData(data.manifest.method, data.catalog, train, **parts, digest=data.digest)


def slates_at(step: int, nexts: Nexts, items: int, retriever: Retriever | None, config: LLaRAConfig) -> list[Slate]:
    """A training batch; its wrong candidates are drawn anew in every epoch."""
    rows_B = rows_at(step, config.batch, len(nexts), config.seed)
    near = _near(nexts.take(rows_B), retriever, config)
    draws = [np.random.default_rng((config.seed, TRAIN, step, place)) for place in range(len(rows_B))]
    return [_slate(nexts, row, items, one, config, rng) for row, one, rng in zip(rows_B, near, draws, strict=True)]


def fixed_slates(nexts: Nexts, items: int, retriever: Retriever | None, config: LLaRAConfig) -> list[Slate]:
    """One for each row, the same at every call: what evaluation asks. The released code draws them anew each time."""
    near = _near(nexts, retriever, config)
    draws = [np.random.default_rng((config.seed, FIXED, row)) for row in range(len(nexts))]
    return [_slate(nexts, row, items, near[row], config, rng) for row, rng in enumerate(draws)]


def _near(nexts: Nexts, retriever: Retriever | None, config: LLaRAConfig) -> list[list[int]]:
    if retriever is None or not config.hard:
        return [[]] * len(nexts)
    histories = [History(tuple(real(history))) for history in nexts.histories_NL]
    return [[c.item for c in found] for found in retriever.retrieve(histories, POOL, [h.items for h in histories])]


def _slate(
    nexts: Nexts, row: int, items: int, near: Sequence[int], config: LLaRAConfig, rng: np.random.Generator
) -> Slate:
    """The wrong ones are distinct and not in the history; fewer only where the catalogue has no more."""
    history, following = real(nexts.histories_NL[row]), int(nexts.nexts_N[row])
    barred = {*history, following}
    close = [item for item in near if item not in barred][: round(config.hard * (config.candidates - 1))]
    wrong = list(close)
    while len(wrong) < min(config.candidates - 1, items - len(barred)):
        item = int(rng.integers(items)) + 1
        if item not in barred and item not in wrong:
            wrong.append(item)
    candidates = [following, *wrong]
    order = rng.permutation(len(candidates))
    return Slate(history, [candidates[place] for place in order], int(np.flatnonzero(order == 0)[0]))
