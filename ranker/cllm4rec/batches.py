"""Documents of each stage. A document depends on the seed, the stage and its place alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ranker.cllm4rec.documents import Document, Documents, described
from ranker.cllm4rec.recipes import CLLM4RecConfig
from ranker.descent import rows_at
from shared.catalog import Catalog
from shared.data.holdout import Holdout

Review = tuple[int, int, str]
"""User (from 1), item, text."""


def interactions_at(step: int, parts: Holdout, documents: Documents, config: CLLM4RecConfig) -> list[Document]:
    """For an L-step: users' items, reordered at random; of many a random part."""
    active = _active(parts, 1)
    batch = []
    for user in active[rows_at(step, config.batch, len(active), config.seed + 1)]:
        rng = np.random.default_rng((config.seed, 1, step, user))
        told = reordered(parts.train[user], rng, config.reorder, config.most_items)
        batch.append(documents.interactions(int(user) + 1, told))
    return batch


def contents_at(step: int, written: Sequence[Document], config: CLLM4RecConfig) -> list[Document]:
    """For a C-step."""
    return [written[row] for row in rows_at(step, contents_of(config), len(written), config.seed + 2)]


def contents_of(config: CLLM4RecConfig) -> int:
    """Documents of a C-step."""
    return config.content_batch or config.batch


def maskings_at(step: int, parts: Holdout, documents: Documents, config: CLLM4RecConfig) -> list[Document]:
    """For RecLLM: a part of a user's items held out, the others as the prompt; at least one of each."""
    active = _active(parts, 2)
    batch = []
    for user in active[rows_at(step, config.batch, len(active), config.seed + 3)]:
        rng = np.random.default_rng((config.seed, 3, step, user))
        shown, held = masked(parts.train[user], config.masked, rng)
        told = reordered(shown, rng, config.reorder, config.most_items)
        batch.append(documents.recommendation(int(user) + 1, told, held))
    return batch


def contents(catalog: Catalog, documents: Documents, reviews: Sequence[Review] = ()) -> list[Document]:
    """All that the content LLM reads: every item's title and categories, and reviews where there are any."""
    items = [documents.content(index, described(item)) for index, item in enumerate(catalog.items, start=1)]
    return items + [documents.reviewed(user, item, text) for user, item, text in reviews]


def reordered(items: np.ndarray, rng: np.random.Generator, reorder: bool, most: int) -> list[int]:
    """The same items, each once, in random order or in their own (section 3.3.4); of more than `most` a random part, so
    that every item is told in time either way."""
    order_N = rng.permutation(len(items)) if reorder or len(items) > most else np.arange(len(items))
    kept_N = order_N[:most]
    return items[kept_N if reorder else np.sort(kept_N)].tolist()


def masked(items: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """Shown items in their order, and the held-out ones."""
    held_N = rng.random(len(items)) < share
    if held_N.all():
        held_N[rng.integers(len(items))] = False
    if not held_N.any():
        held_N[rng.integers(len(items))] = True
    return items[~held_N], items[held_N].tolist()


def _active(parts: Holdout, least: int) -> np.ndarray:
    return np.array([user for user, items in enumerate(parts.train) if len(items) >= least])
