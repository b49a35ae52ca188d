"""Labelled pairs out of a prepared folder, which holds events only: what a user took, against what it did not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ranker.collm.recipes import AT_ONCE, CoLLMConfig
from shared.data.pairs import PairData, Pairs, left_padded
from shared.data.prepared import Prepared
from shared.data.split import newly, train_sequence
from shared.history import History
from shared.protocols import Retriever

BLOCK, POOL = 512, 20
MOST = 20
"""Pairs of one packed prompt."""


def pairs_of(data: Prepared, retriever: Retriever, config: CoLLMConfig) -> PairData:
    """train: every event that something else came before, and its negatives. valid: the validation items likewise.

    At most as many events as the longest step asks for; an epoch takes all.
    """
    train, valid = [], []
    for user, sequence in enumerate(data.sequences()):
        seen = train_sequence(sequence)
        new = newly(sequence)
        train += [(user, t) for t in range(1, len(seen)) if new[t]]
        valid += [(user, len(sequence) - 2)] if len(sequence) >= 3 and new[-2] else []
    first = config.tune not in AT_ONCE and not config.tallrec
    # Of both steps wherever there is a first one: TALLRec alone sees the prompts that it sees within CoLLM.
    steps = (config.text_prompts, config.mapping_prompts) if first else (config.mapping_prompts,)
    wanted = -(-max(steps) // (1 if config.packed else 1 + config.negatives)) if all(steps) else len(train)
    parts = {
        "train": _labelled(data, _some(train, wanted, config.seed), retriever, config.negatives, config, 1),
        "valid": _labelled(
            data, _some(valid, config.validation_pairs, config.seed), retriever, config.negatives, config, 2
        ),
    }
    nobody = parts["valid"].take(np.zeros(0, dtype=int))
    return PairData(data.manifest.method, data.catalog, tuple(data.user_ids), **parts, test=nobody, digest=data.digest)


def everything(data: Prepared, config: CoLLMConfig) -> Pairs:
    """All training events and uniform negatives: what the collaborative model learns from."""
    events = [(u, t) for u, s in enumerate(data.sequences()) for t in range(len(train_sequence(s)))]
    return _labelled(data, events, None, config.behaviour_negatives, config, 3)


def slates(pairs: Pairs, together: int = 0) -> list[np.ndarray]:
    """Rows that stand together and ask one user with one history, MOST at once. together: instead so many of a user's
    rows at once, whatever their histories."""
    same_N = pairs.users_N[1:] == pairs.users_N[:-1]
    if not together:
        same_N = same_N & (pairs.histories_NL[1:] == pairs.histories_NL[:-1]).all(1)
    whole = np.split(np.arange(len(pairs)), np.flatnonzero(~same_N) + 1)
    most = together or MOST
    return [part for rows in whole for part in np.split(rows, range(most, len(rows), most))]


def _some(events: list[tuple[int, int]], wanted: int, seed: int) -> list[tuple[int, int]]:
    order = np.random.default_rng((seed, 0)).permutation(len(events))
    return [events[place] for place in order[:wanted]]


def _labelled(
    data: Prepared,
    events: Sequence[tuple[int, int]],
    retriever: Retriever | None,
    negatives: int,
    config: CoLLMConfig,
    stream: int,
) -> Pairs:
    users, items, labels, histories = [], [], [], []
    for start in range(0, len(events), BLOCK):
        block = events[start : start + BLOCK]
        pasts = [data.sequence(u)[:t] for u, t in block]
        found = _retrieved(retriever, pasts) if retriever and config.hard else [[]] * len(block)
        for place, ((user, t), past, near) in enumerate(zip(block, pasts, found, strict=True), start=start):
            rng = np.random.default_rng((config.seed, stream, place))
            sequence = data.sequence(user)
            taken = set(sequence[: max(t + 1, len(train_sequence(sequence)))].tolist())
            wrong = _wrong(taken, near, len(data.catalog), negatives, config.hard if retriever else 0.0, rng)
            users += [user + 1] * (1 + len(wrong))
            items += [int(sequence[t]), *wrong]
            labels += [1.0] + [0.0] * len(wrong)
            histories += [past] * (1 + len(wrong))
    return Pairs(
        np.array(users, dtype=np.int64),
        np.array(items, dtype=np.int64),
        np.array(labels, dtype=np.float32),
        left_padded(histories, config.window),
        np.ones(len(users), dtype=bool),
    )


def _retrieved(retriever: Retriever, pasts: Sequence[np.ndarray]) -> list[list[int]]:
    histories = [History(tuple(past.tolist())) for past in pasts]
    return [[c.item for c in found] for found in retriever.retrieve(histories, POOL, [h.items for h in histories])]


def _wrong(
    taken: set[int], near: Sequence[int], items: int, wanted: int, hard: float, rng: np.random.Generator
) -> list[int]:
    """Distinct items that the user did not take in training; fewer only where the catalogue has no more."""
    close = [item for item in near if item not in taken]
    wrong: list[int] = []
    while len(wrong) < min(wanted, items - len(taken)):
        from_near = [i for i in close if i not in wrong] if rng.random() < hard else []
        item = int(rng.choice(from_near)) if from_near else int(rng.integers(items)) + 1
        if item not in taken and item not in wrong:
            wrong.append(item)
    return wrong
