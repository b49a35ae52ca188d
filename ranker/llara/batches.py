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
TRAIN, FIXED, BINDING = 1, 2, 8


@dataclass(frozen=True, slots=True)
class Slate:
    """right: the place of the next item among the candidates, which stand in random order."""

    history: list[int]
    candidates: list[int]
    right: int


@dataclass(frozen=True, slots=True)
class Binding:
    """asked: places among the candidates. histories: of users who chose those next."""

    candidates: list[int]
    asked: list[int]
    histories: list[list[int]]


def nexts_of(data: Prepared, config: LLaRAConfig) -> NextData:
    """train: every window of the training sequences. valid, test: what Tandem holds out. What follows is never an item
    of the history."""
    train = _newly(windows([train_sequence(s) for s in data.sequences()], config.history, config.shortest))
    parts = {}
    for part in ("valid", "test"):
        held = list(cases(data, part))
        histories = left_padded([case.history for case in held], config.history)
        parts[part] = _newly(Nexts(histories, np.array([case.truth for case in held], dtype=np.int64)))
    return NextData(data.manifest.method, data.catalog, train, **parts, digest=data.digest)


def _newly(nexts: Nexts) -> Nexts:
    """One title twice would be the answer, whatever the user's taste."""
    return nexts.take(np.flatnonzero((nexts.histories_NL != nexts.nexts_N[:, None]).all(axis=1)))


def slates_at(step: int, nexts: Nexts, items: int, retriever: Retriever | None, config: LLaRAConfig) -> list[Slate]:
    """A training batch; its wrong candidates are drawn anew in every epoch."""
    rows_B = rows_at(step, config.batch, len(nexts), config.seed)
    near = _near(nexts.take(rows_B), retriever, config)
    draws = [np.random.default_rng((config.seed, TRAIN, step, place)) for place in range(len(rows_B))]
    return [_slate(nexts, row, items, one, config, rng) for row, one, rng in zip(rows_B, near, draws, strict=True)]


def bindings_at(step: int, nexts: Nexts, items: int, config: LLaRAConfig) -> list[Binding]:
    """A batch of the binding stage: half of the candidates are what users chose next, the others are random."""
    wanted = min(config.candidates, items)
    rows = rows_at(step, config.batch * -(-wanted // 2), len(nexts), config.seed)
    draws = [np.random.default_rng((config.seed, BINDING, step, place)) for place in range(config.batch)]
    return [
        _binding(nexts, rows_K, items, wanted, rng)
        for rows_K, rng in zip(np.split(rows, config.batch), draws, strict=True)
    ]


def _binding(nexts: Nexts, rows_K: np.ndarray, items: int, wanted: int, rng: np.random.Generator) -> Binding:
    """Of two users who chose the same, the later one counts."""
    histories = {int(nexts.nexts_N[row]): real(nexts.histories_NL[row]) for row in rows_K}
    listed = list(histories)
    while len(listed) < wanted:
        item = int(rng.integers(items)) + 1
        if item not in listed:
            listed.append(item)
    order = rng.permutation(wanted)
    asked = [place for place, one in enumerate(order) if one < len(histories)]
    candidates = [listed[one] for one in order]
    return Binding(candidates, asked, [histories[candidates[place]] for place in asked])


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
