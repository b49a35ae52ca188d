"""CoLLM's evaluation data: train, valid and test.parquet with labelled pairs (arXiv 2310.19488, section 5.1).

Columns: user_id, item_id (0 is none), label, history_item_ids (liked, oldest first), history_titles, title, not_cold.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl

from shared.artifact import sha256
from shared.catalog import Catalog, Item
from shared.data import parquet
from shared.data.pairs import PairData, Pairs, left_padded

SPLITS = ("train", "valid", "test")
NEEDED = "CoLLM's evaluation data are three files, train, valid and test.parquet"
COLUMNS = ("user_id", "item_id", "label", "history_item_ids", "history_titles", "title", "not_cold")


def read(folder: Path, window: int) -> PairData:
    """window: items of history that are kept. Raises BadInput for another folder."""
    frames = {split: parquet.frame(folder / f"{split}.parquet", COLUMNS, NEEDED) for split in SPLITS}
    titles: dict[int, str] = {}
    for frame in frames.values():
        for item, title in frame.select("item_id", "title").unique(maintain_order=True).iter_rows():
            titles.setdefault(item, title)
        told = frame.select("history_item_ids", "history_titles").explode("history_item_ids", "history_titles")
        for item, title in told.unique(maintain_order=True).iter_rows():
            titles.setdefault(item, title)
    known = sorted(item for item, title in titles.items() if item and title)
    index = {item: place for place, item in enumerate(known, start=1)}
    users = sorted({user for frame in frames.values() for user in frame["user_id"].unique().to_list()})
    people = {user: place for place, user in enumerate(users, start=1)}
    parts = {split: _pairs(frame, index, people, window) for split, frame in frames.items()}
    digest = hashlib.sha256("".join(sha256(folder / f"{split}.parquet") for split in SPLITS).encode()).hexdigest()
    catalog = Catalog(tuple(Item(str(item), titles[item]) for item in known))
    return PairData(folder.name, catalog, tuple(map(str, users)), **parts, digest=digest)


def _pairs(frame: pl.DataFrame, index: dict[int, int], people: dict[int, int], window: int) -> Pairs:
    histories = [[index[i] for i in items if i in index] for items in frame["history_item_ids"].to_list()]
    return Pairs(
        users_N=np.array([people[u] for u in frame["user_id"].to_list()], dtype=np.int64),
        items_N=np.array([index[i] for i in frame["item_id"].to_list()], dtype=np.int64),
        labels_N=frame["label"].to_numpy().astype(np.float32),
        histories_NL=left_padded(histories, window),
        warm_N=frame["not_cold"].to_numpy().astype(bool),
    )
