"""Parquet files of published evaluation data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from shared.errors import BadInput


def frame(path: Path, columns: Sequence[str], needed: str) -> pl.DataFrame:
    """needed: which files there should be, for the message. Raises BadInput where the file is missing, is no Parquet
    or lacks one of the columns."""
    if not path.is_file():
        raise BadInput(f"{path} is missing: {needed}.")
    try:
        found = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    missing = [column for column in columns if column not in found.columns]
    if missing:
        raise BadInput(f"{path} has no column {missing[0]!r}; it has {', '.join(found.columns)}.")
    return found
