"""Recommendation lists that another system made, as a file: one row an item, each user's rows best first."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from shared.data.prepared import Prepared
from shared.data.rows import ROW, collect
from shared.data.table import read_rows
from shared.errors import BadInput

USER, ITEM = "user_id", "item_id"
UNKNOWN = 0
"""Stands for an item outside the catalogue: it takes a place in the list and is nobody's truth."""


def read(path: Path, data: Prepared) -> dict[int, np.ndarray]:
    """User -> dense indices, best first; int32. Rows of users whom the data folder does not know are left out.

    CSV, TSV, JSON lines or Parquet with user_id and item_id. Raises BadInput where a column is missing, an item comes
    twice in one list, or no user is known.
    """
    with tempfile.TemporaryDirectory(prefix="tandem-lists-") as work:
        rows = read_rows(path, Path(work), "fail")
        rows.require(USER, ITEM)
        found = collect(rows.frame.select(ROW, pl.col(USER).cast(pl.String), pl.col(ITEM).cast(pl.String)), path)
    users = pl.DataFrame({USER: data.user_ids, "user": np.arange(len(data), dtype=np.int64)})
    ids = [data.catalog[place].id for place in range(1, len(data.catalog) + 1)]
    items = pl.DataFrame({ITEM: ids, "item": np.arange(1, len(ids) + 1, dtype=np.int32)})
    known = found.join(users, on=USER).join(items, on=ITEM, how="left").sort(ROW)
    if known.is_empty():
        raise BadInput(
            f"{path} holds no list of any of the {len(data):,} users of the data folder; its first user is "
            f"{found[USER].first()!r}. Give the ids of the source that the folder was made from."
        )
    twice = known.filter(pl.struct("user", ITEM).is_duplicated())
    if len(twice):
        user, item = twice.select(USER, ITEM).row(0)
        raise BadInput(f"{path}: user {user!r} has the item {item!r} twice. A list names each item once.")
    lists = known.group_by("user", maintain_order=True).agg(pl.col("item").fill_null(UNKNOWN))
    return {user: np.array(items, dtype=np.int32) for user, items in lists.iter_rows()}


def write(path: Path, data: Prepared, users: Sequence[int], lists: Sequence[Sequence[int]]) -> None:
    """As Parquet. lists: dense indices, best first."""
    user_ids = [data.user_ids[user] for user, items in zip(users, lists, strict=True) for _ in items]
    item_ids = [data.catalog[item].id for items in lists for item in items]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as draft:
        made = Path(draft) / path.name
        pl.DataFrame({USER: user_ids, ITEM: item_ids}).write_parquet(made)
        made.replace(path)
