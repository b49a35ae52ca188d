"""Tiny prepared data with a rule to learn or with none, and the smallest run that learns it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retriever.recipes import TrainConfig
from retriever.train import train
from shared.artifact import Manifest
from shared.catalog import Catalog, Item
from shared.data.prepared import Prepared

CONFIG = TrainConfig(
    window=10,
    width=16,
    state=16,
    blocks=2,
    dropout=0.1,
    attention_dropout=0.1,
    batch=16,
    learning_rate=1e-2,
    epochs=3,
    validate_every=4,
    patience=100,
    seed=1,
)


def catalog(size: int, title: str = "Title") -> Catalog:
    return Catalog(tuple(Item(f"i{n}", f"{title} {n}") for n in range(1, size + 1)))


def prepared(sequences: Sequence[Sequence[int]], items: Catalog) -> Prepared:
    """User u{n} has the n-th sequence of dense indices, oldest first."""
    offsets = np.cumsum([0, *(len(s) for s in sequences)]).astype(np.int64)
    flat = np.concatenate([np.asarray(s, dtype=np.int32) for s in sequences])
    manifest = Manifest(kind="data", method="table", data_digest="d" * 64, catalog_fingerprint=items.fingerprint())
    return Prepared(items, [f"u{n}" for n in range(len(sequences))], offsets, flat, manifest)


def cycle(users: int = 60, length: int = 12, items: int = 40, seed: int = 0) -> Prepared:
    """Whoever has item i takes item i + 1 next, round the end."""
    starts = np.random.default_rng(seed).integers(items, size=users)
    return prepared([(start + np.arange(length)) % items + 1 for start in starts], catalog(items))


def noise(users: int = 60, length: int = 12, items: int = 40, seed: int = 0) -> Prepared:
    """Every item is drawn at random: there is nothing to learn."""
    rng = np.random.default_rng(seed)
    return prepared(rng.integers(1, items + 1, size=(users, length)), catalog(items))


def trained(out: Path, data: Prepared | None = None, config: TrainConfig = CONFIG) -> Manifest:
    return train(data or cycle(), config, out)
