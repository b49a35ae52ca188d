"""Events with text ids to integer codes, streamed: no Python object per row, no text kept per row.

Three readings of the file: which rows are bad, which ids there are, then the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from shared.data.rows import ROW, OnError
from shared.data.source import Source
from shared.errors import BadInput, BadRow
from shared.progress import Advance

# What the HTTP API takes for an id (shared/wire): no request could name any other. Nor is U+FFFD taken, the
# trace of bytes that were no UTF-8: two damaged ids must not become one.
MAX_ID = 128
_FIRST = "_first"


@dataclass(frozen=True, slots=True)
class Encoded:
    """The events of titled items, in file order: codes into `user_ids` and the rows of `items`, both from 0.

    users, items and rows `before` are counted over every good row, of untitled items too.
    """

    user_ids: pl.Series
    user_N: np.ndarray
    item_N: np.ndarray
    time_N: np.ndarray
    users_before: int
    items_before: int
    rows_before: int
    skipped: int


def encode(source: Source, on_error: OnError, advance: Advance) -> Encoded:
    """Users are numbered by first appearance in the file, items by their row in `source.items`.

    Advances by 3 steps. Raises BadRow for the first row without user, item or finite time, unless `on_error`
    is skip.
    """
    try:
        return _encode(source, on_error, advance)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{source.events.file} cannot be read: {str(error).splitlines()[0]}") from error


def _encode(source: Source, on_error: OnError, advance: Advance) -> Encoded:
    events, time_type, bad = _checked(source, on_error)
    advance(1, "rows checked")
    users, items, rows = pl.collect_all(
        [_by_first_row(events, "user"), _by_first_row(events, "item"), events.select(pl.len())],
        engine="streaming",
    )
    advance(1, "ids read")
    users = users.select("user", user_code=pl.int_range(pl.len(), dtype=pl.Int32))
    codes = source.items.select(item="item_id", item_code=pl.int_range(pl.len(), dtype=pl.Int32))
    coded = (
        events.join(codes.lazy(), on="item", how="inner")
        .join(users.lazy(), on="user", how="inner")
        .select(ROW, "user_code", "item_code", pl.col("time").cast(time_type))
        .collect(engine="streaming")
        .sort(ROW)
    )
    advance(1, "events read")
    return Encoded(
        users["user"],
        coded["user_code"].to_numpy(),
        coded["item_code"].to_numpy(),
        coded["time"].to_numpy(),
        len(users),
        len(items),
        rows.item(),
        bad + source.events.skipped,
    )


def _by_first_row(events: pl.LazyFrame, name: str) -> pl.LazyFrame:
    return events.group_by(name).agg(pl.col(ROW).min().alias(_FIRST)).sort(_FIRST)


def _checked(source: Source, on_error: OnError) -> tuple[pl.LazyFrame, type[pl.Int64 | pl.Float64], int]:
    """Good rows as (ROW, user, item, time), the type that holds every time exactly, the number of bad rows."""
    kind = source.events.frame.collect_schema()[source.time]
    events = source.events.frame.select(
        ROW,
        pl.col(source.user).cast(pl.String).alias("user"),
        pl.col(source.item).cast(pl.String).alias("item"),
        _as_number(kind, source.time).alias("time"),
    )
    user, item, time = pl.col("user"), pl.col("item"), pl.col("time")
    number = time.cast(pl.Float64, strict=False)
    is_good = _is_id(user) & _is_id(item) & number.is_finite().fill_null(False)
    facts = (
        events.select(
            bad=(~is_good).sum(),
            first=pl.col(ROW).filter(~is_good).min(),
            whole=(~is_good | time.cast(pl.Int64, strict=False).is_not_null()).all(),
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )
    if facts["bad"] and on_error == "fail":
        row = events.filter(pl.col(ROW) == facts["first"])
        raise _fault(source, row.with_columns(user_good=_is_id(user), item_good=_is_id(item)))
    # Nanoseconds since 1970 are whole numbers that a float rounds; a float column would itself be cut to whole.
    is_whole = facts["whole"] and (kind == pl.String or kind.is_integer() or kind.is_temporal())
    return events.filter(is_good), pl.Int64 if is_whole else pl.Float64, facts["bad"]


def _is_id(column: pl.Expr) -> pl.Expr:
    bounded = column.str.len_chars().is_between(1, MAX_ID)
    return (bounded & ~column.str.contains("[\x00-\x1f\x7f\ufffd]")).fill_null(False)


def _as_number(kind: pl.DataType, name: str) -> pl.Expr:
    """A Parquet file may hold dates; their count of units orders them as well."""
    column = pl.col(name)
    if kind.is_temporal():
        return column.to_physical()
    return column.str.strip_chars() if kind == pl.String else column


def _fault(source: Source, query: pl.LazyFrame) -> BadRow:
    row = query.collect(engine="streaming").row(0, named=True)
    for key, column in (("user", source.user), ("item", source.item)):
        if not row[f"{key}_good"]:
            fault = f"is no id of 1 to {MAX_ID} printable characters"
            return source.events.bad_row(row[ROW], column, row[key], fault)
    return source.events.bad_row(row[ROW], source.time, row["time"], "is no finite number")
