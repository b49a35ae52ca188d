"""A prepared data folder: items.parquet, interactions.parquet, manifest.json.

items.parquet          item_id str, title str, categories list[str]; row i has the dense index i + 1
interactions.parquet   user int32 (index into users.parquet), item int32 (dense index, 1..n);
                       grouped by user, each user's rows oldest first
users.parquet          user_id str, by first appearance in the source
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from shared.artifact import Manifest, open_artifact
from shared.catalog import Catalog, Item
from shared.errors import UnknownUser
from shared.history import History

ITEMS, USERS, INTERACTIONS = "items.parquet", "users.parquet", "interactions.parquet"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Users' sequences in one flat array: user u's items are items[offsets[u]:offsets[u + 1]], oldest first."""

    catalog: Catalog
    user_ids: list[str]
    offsets_U1: np.ndarray
    items_N: np.ndarray
    manifest: Manifest
    _user_index: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_user_index", {user: u for u, user in enumerate(self.user_ids)})

    def __len__(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def digest(self) -> str:
        return self.manifest.data_digest

    def sequence(self, user: int) -> np.ndarray:
        """All items of one user, oldest first; a view, int32."""
        return self.items_N[self.offsets_U1[user] : self.offsets_U1[user + 1]]

    def sequences(self) -> Iterator[np.ndarray]:
        return (self.sequence(user) for user in range(len(self)))

    def user(self, user_id: str) -> int:
        try:
            return self._user_index[user_id]
        except KeyError:
            raise UnknownUser(
                f"user {user_id!r} is not among the {len(self)} users of the data folder. "
                "Give a known user, or the history itself."
            ) from None

    def history(self, user_id: str) -> History:
        return History(tuple(int(i) for i in self.sequence(self.user(user_id))), user_id)


def load(folder: Path) -> Prepared:
    """Raises BadArtifact where the folder is incomplete or changed."""
    manifest = open_artifact(folder, "data")
    catalog = _catalog(folder, manifest)
    user_ids = pl.read_parquet(folder / USERS)["user_id"].to_list()
    interactions = pl.read_parquet(folder / INTERACTIONS)
    counts = np.bincount(interactions["user"].to_numpy(), minlength=len(user_ids))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Prepared(catalog, user_ids, offsets, interactions["item"].to_numpy().astype(np.int32), manifest)


def load_catalog(folder: Path) -> Catalog:
    """Without the interactions. Raises as `load` does."""
    return _catalog(folder, open_artifact(folder, "data"))


def _catalog(folder: Path, manifest: Manifest) -> Catalog:
    items = pl.read_parquet(folder / ITEMS)
    rows = items.select("item_id", "title", "categories").iter_rows()
    catalog = Catalog(tuple(Item(item_id, title, tuple(categories)) for item_id, title, categories in rows))
    catalog.require(manifest.catalog_fingerprint, str(folder))
    return catalog
