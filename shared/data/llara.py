"""LLaRA's evaluation data: windows of 10 items and the item that came next (arXiv 2312.02445, section 4.1).

Columns: seq (right padded), len_seq, next; items count from 0. LastFM brings items.parquet and a training file.
MovieLens names the users of its validation and test rows, and everybody else of ML-100K trains: `--data` then is a
prepared folder of all ML-100K (`tandem data prepare --dataset ml-100k --min-user 1 --min-item 1`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from shared.artifact import sha256
from shared.catalog import Catalog, Item
from shared.data import parquet
from shared.data.pairs import NextData, Nexts, left_padded
from shared.data.prepared import Prepared
from shared.errors import BadInput

WINDOW = 10
SHORTEST = 3
"""Items of history that a training row needs (the released code's rule)."""


def read(folder: Path, everyone: Prepared | None = None, *, window: int = WINDOW, shortest: int = SHORTEST) -> NextData:
    """everyone: ML-100K, for the MovieLens folder. window: items of history, of the ten that the rows have at most.
    shortest: items of history that a training row needs. Raises BadInput for another folder."""
    valid, test = (_frame(folder, f"{split}.parquet") for split in ("valid", "test"))
    files = [folder / "valid.parquet", folder / "test.parquet"]
    if "ml100k_user_id" in test.columns:
        if everyone is None:
            raise BadInput(f"{folder} holds no titles: give a prepared folder of all ML-100K with --data.")
        catalog = everyone.catalog
        numbered = enumerate(catalog.items, start=1)
        index = {int(item.id) - 1: place for place, item in numbered if item.id.isdecimal()}
        train = _others(everyone, valid, test, window, shortest)
    else:
        items = _frame(folder, "items.parquet", ("item_id", "title")).sort("item_id")
        catalog = Catalog(tuple(Item(str(i), title) for i, title in items.select("item_id", "title").iter_rows()))
        index = {item: place for place, item in enumerate(items["item_id"].to_list(), start=1)}
        train = _nexts(_frame(folder, "train.parquet"), index, window, shortest)
        files += [folder / "train.parquet", folder / "items.parquet"]
    digest = hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()
    return NextData(folder.name, catalog, train, _nexts(valid, index, window), _nexts(test, index, window), digest)


def windows(sequences: list[np.ndarray], window: int, shortest: int) -> Nexts:
    """Every item that comes after at least `shortest` others."""
    ends = [(s, t) for s in sequences for t in range(shortest, len(s))]
    histories = left_padded([s[max(0, t - window) : t] for s, t in ends], window)
    return Nexts(histories, np.array([s[t] for s, t in ends], dtype=np.int64))


def _others(everyone: Prepared, valid: pl.DataFrame, test: pl.DataFrame, window: int, shortest: int) -> Nexts:
    held = {str(user) for frame in (valid, test) for user in frame["ml100k_user_id"].to_list()}
    users = [u for u, user_id in enumerate(everyone.user_ids) if user_id not in held]
    return windows([everyone.sequence(u) for u in users], window, shortest)


def _frame(folder: Path, name: str, columns: Sequence[str] = ("seq", "len_seq", "next")) -> pl.DataFrame:
    return parquet.frame(folder / name, columns, "LLaRA's evaluation data are train, valid, test and items.parquet")


def _nexts(frame: pl.DataFrame, index: dict[int, int], window: int, shortest: int = 0) -> Nexts:
    """Raises BadInput where a row asks for an item that the catalogue lacks."""
    rows = frame.select("seq", "next").iter_rows()
    if lost := [item for item in frame["next"].to_list() if item not in index]:
        raise BadInput(
            f"{len(lost):,} rows ask for items that the catalogue does not have; the first is {lost[0]}. "
            "For MovieLens prepare all of ML-100K: tandem data prepare --dataset ml-100k --min-user 1 --min-item 1"
        )
    found = [([index[i] for i in seq if i in index], index[following]) for seq, following in rows]
    found = [(history, following) for history, following in found if len(history) >= shortest]
    nexts_N = np.array([following for _, following in found], dtype=np.int64)
    return Nexts(left_padded([history for history, _ in found], window), nexts_N)
