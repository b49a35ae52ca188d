"""From a source to a prepared folder: untitled items out, k-core, order by (time, row), numbers, files.

Nothing in it depends on hashes, threads or the machine: the same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from shared.artifact import Manifest, package_versions, require_replaceable, seal, writing
from shared.catalog import Catalog, Item
from shared.data.encode import Encoded, encode
from shared.data.filter import k_core
from shared.data.prepared import INTERACTIONS, ITEMS, USERS
from shared.data.rows import OnError
from shared.data.source import Source
from shared.errors import BadInput
from shared.progress import progress


@dataclass(frozen=True, slots=True)
class Counts:
    users: int
    items: int
    interactions: int

    def __str__(self) -> str:
        return f"{self.users:,} users / {self.items:,} items / {self.interactions:,} interactions"


@dataclass(frozen=True, slots=True)
class Report:
    before: Counts
    after: Counts
    skipped: int
    manifest: Manifest


def prepare(
    method: str,
    read: Callable[[Path], Source],
    out: Path,
    *,
    min_user: int = 5,
    min_item: int = 5,
    on_error: OnError = "fail",
) -> Report:
    """Writes the prepared folder `out`, in place of what was there.

    read: opens the source; it is given a temporary folder that lives as long as the preparation.
    Raises BadInput, BadRow, or Unavailable where a source cannot be downloaded; `out` is then untouched.
    """
    require_replaceable(out)
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory(prefix="tandem-data-")))
        source = read(work)  # with its own progress where it takes long
        advance = stack.enter_context(progress(f"prepare {method}", 6, "steps"))
        encoded = encode(source, on_error, advance)
        before = Counts(encoded.users_before, encoded.items_before, encoded.rows_before)
        kept = k_core(encoded.user_N, encoded.item_N, min_user, min_item)
        if len(kept) == 0:
            raise BadInput(
                f"nothing is left of {before} after items without a title and the "
                f"{min_user}/{min_item}-core are dropped. Check that the ids of the item file are those of the "
                "interactions, or lower --min-user and --min-item."
            )
        advance(1, f"{len(kept):,} events kept")
        items, users, interactions = _tables(source, encoded, kept)
        after = Counts(len(users), len(items), len(interactions))
        advance(1, "ordered")
        manifest = Manifest(
            kind="data",
            method=method,
            config={**source.config, "min_user": min_user, "min_item": min_item, "on_error": on_error},
            metrics={**_named("before", before), **_named("after", after), **_skips(source, encoded)},
            data_digest=_digest(items, users, interactions),
            catalog_fingerprint=_catalog(items).fingerprint(),
            packages=package_versions("polars"),
        )
        draft = stack.enter_context(writing(out))
        for name, table in ((ITEMS, items), (USERS, users), (INTERACTIONS, interactions)):
            table.write_parquet(draft / name, compression="zstd", row_group_size=1 << 20)
        manifest = seal(draft, manifest)
        advance(1, "written")
    return Report(before, after, encoded.skipped, manifest)


def _tables(source: Source, encoded: Encoded, kept_K: np.ndarray) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """items, users and interactions as the folder holds them. Survivors keep their relative order."""
    user_K, item_K = encoded.user_N[kept_K], encoded.item_N[kept_K]
    users, user_K = np.unique(user_K, return_inverse=True)
    items, item_K = np.unique(item_K, return_inverse=True)
    # Events come in file order, so that a stable sort breaks ties in time by the row.
    order_K = np.lexsort((encoded.time_N[kept_K], user_K))
    interactions = pl.DataFrame(
        {"user": user_K[order_K].astype(np.int32), "item": (item_K[order_K] + 1).astype(np.int32)}
    )
    return source.items[items], pl.DataFrame({"user_id": encoded.user_ids[users]}), interactions


def _catalog(items: pl.DataFrame) -> Catalog:
    return Catalog(tuple(Item(i, title, tuple(categories)) for i, title, categories in items.iter_rows()))


def _digest(items: pl.DataFrame, users: pl.DataFrame, interactions: pl.DataFrame) -> str:
    """sha256 over the content, not the files: a newer Parquet writer changes bytes, not data."""
    digest = hashlib.sha256(_catalog(items).fingerprint().encode())
    digest.update("\n".join(users["user_id"]).encode())
    for column in ("user", "item"):
        digest.update(interactions[column].to_numpy().astype("<i4").tobytes())
    return digest.hexdigest()


def _named(when: str, counts: Counts) -> dict[str, int]:
    return {
        f"users_{when}": counts.users,
        f"items_{when}": counts.items,
        f"interactions_{when}": counts.interactions,
    }


def _skips(source: Source, encoded: Encoded) -> dict[str, Any]:
    untitled = encoded.rows_before - len(encoded.user_N)
    return {"skipped_rows": encoded.skipped, "untitled_interactions": untitled, **source.notes}
