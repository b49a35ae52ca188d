"""What every dataset is brought to before it is prepared: rows of events, and a table of items."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from shared.data.rows import Rows
from shared.data.titles import clean_categories, clean_title

ITEM_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "item_id": pl.String,
    "title": pl.String,
    "categories": pl.List(pl.String),
}
_CHUNK = 50_000


@dataclass(frozen=True, slots=True)
class Source:
    """events: one row per interaction; `user`, `item` and `time` name its columns.

    items: item_id, title, categories, cleaned, in the order of the item source, each id once, only items
    with a title.  config: what tells two preparations of the same files apart.  notes: counts for the manifest.
    """

    events: Rows
    user: str
    item: str
    time: str
    items: pl.DataFrame
    config: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


def item_table(rows: Iterable[tuple[str, str, list[str]]]) -> pl.DataFrame:
    """From (id, title, categories) as the source has them. Of a repeated id the first title counts."""
    frames = [pl.DataFrame(schema=ITEM_SCHEMA)]
    chunk: list[tuple[str, str, list[str]]] = []
    for item_id, title, categories in rows:
        if cleaned := clean_title(title):
            chunk.append((item_id, cleaned, clean_categories(categories)))
        if len(chunk) == _CHUNK:
            frames.append(pl.DataFrame(chunk, schema=ITEM_SCHEMA, orient="row"))
            chunk = []
    frames.append(pl.DataFrame(chunk, schema=ITEM_SCHEMA, orient="row"))
    return pl.concat(frames).unique("item_id", keep="first", maintain_order=True)
