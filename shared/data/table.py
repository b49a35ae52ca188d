"""Your own data: interactions as CSV, TSV, JSON lines or Parquet, and titles in them or in a file of items."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shared.data.delimited import delimited_rows
from shared.data.json_lines import json_rows
from shared.data.rows import ROW, OnError, Rows, check_ids, parquet_rows
from shared.data.source import Source, item_table
from shared.errors import BadInput

TIMES = ("timestamp", "position")
CATEGORIES = ("categories", "category")
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")
BETWEEN_CATEGORIES = "|"


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Names in the files. The item column is that of both files.

    time: any number that grows; where None, `timestamp`, else `position`.
    category: a list, or text separated by |; where None, `categories` or `category` if the file has it.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None
    title: str = "title"
    category: str | None = None


def table(path: Path, items: Path | None, columns: Columns, work: Path, on_error: OnError) -> Source:
    """path: the interactions, or a folder with interactions.* and, where titles stand apart, items.*"""
    if path.is_dir():
        items = items or next(iter(_named(path, "items")), None)
        path = _named(path, "interactions", needed=True)[0]
    events = read_rows(path, work, on_error)
    time = columns.time or next((name for name in TIMES if name in events.columns), TIMES[0])
    events.require(columns.user, columns.item, time)
    titled = read_rows(items, work, on_error) if items else events
    if items is None and columns.title not in events.columns:
        raise BadInput(
            f"{path} has no column {columns.title!r} (it has {', '.join(events.columns)}), and no file of items "
            "was given. Name the column with --title, or the file with --items."
        )
    titled.require(columns.item, columns.title, *([columns.category] if columns.category else []))
    category = columns.category or next((name for name in CATEGORIES if name in titled.columns), None)
    return Source(
        events=events,
        user=columns.user,
        item=columns.item,
        time=time,
        items=item_table(_items(titled, columns.item, columns.title, category)),
        config={
            "files": [path.name, *([items.name] if items else [])],
            "columns": {"user": columns.user, "item": columns.item, "time": time, "title": columns.title}
            | ({"category": category} if category else {}),
        },
        notes={"skipped_item_rows": titled.skipped + check_ids(titled, columns.item, on_error)} if items else {},
    )


def read_rows(path: Path, work: Path, on_error: OnError) -> Rows:
    """The format is that of the file's name."""
    if not path.is_file():
        raise BadInput(f"{path} does not exist. Give a file; of interactions also a folder with interactions.* in it.")
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    match suffix.removesuffix(".gz"):
        case ".parquet":
            return parquet_rows(path)
        case ".jsonl" | ".ndjson" | ".json":
            return json_rows(path, work)
        case ".csv":
            return delimited_rows(path, work, on_error)
        case ".tsv":
            return delimited_rows(path, work, on_error, separator="\t")
    raise BadInput(f"{path} is of no known format. Name it {', '.join(SUFFIXES)}.")


def _named(folder: Path, stem: str, *, needed: bool = False) -> list[Path]:
    """One file, or none where none is needed."""
    found = [file for suffix in SUFFIXES if (file := folder / (stem + suffix)).is_file()]
    if len(found) > 1 or (needed and not found):
        raise BadInput(
            f"{folder} holds {len(found)} files {stem}.*, not 1. Name it {stem}.parquet, {stem}.csv or "
            f"{stem}.jsonl, or give the file itself."
        )
    return found


def _items(rows: Rows, item: str, title: str, category: str | None) -> Iterator[tuple[str, str, list[str]]]:
    """From the first row of each item that has a title, in the order of these rows."""
    cells = rows.frame.select(
        ROW,
        pl.col(item).cast(pl.String).alias("item"),
        pl.col(title).cast(pl.String).alias("title"),
        (pl.col(category) if category else pl.lit(None, pl.String)).alias("category"),
    )
    is_titled = (pl.col("item") != "") & (pl.col("title").str.strip_chars() != "")
    first = cells.filter(is_titled).group_by("item").agg(pl.col(ROW).min()).select(ROW)
    try:
        found = cells.join(first, on=ROW, how="semi").collect(engine="streaming").sort(ROW)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{rows.file} cannot be read: {str(error).splitlines()[0]}") from error
    for _, item_id, text, categories in found.iter_rows():
        yield item_id, text, _names(categories)


def _names(value: object) -> list[str]:
    if isinstance(value, str) and value.startswith("["):
        with suppress(json.JSONDecodeError):
            value = json.loads(value)
    if isinstance(value, str):
        return value.split(BETWEEN_CATEGORIES)
    if not isinstance(value, list):
        return [] if value is None else [str(value)]
    return [str(name) for name in value if name is not None]
