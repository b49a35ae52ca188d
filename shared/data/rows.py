"""The rows of a source file, read lazily as text, with the way back from a row to its line in the file.

A good file is checked by whole columns; only a file with a fault is read again line by line, to say where.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from shared.data.watched import watched
from shared.errors import BadInput, BadRow

OnError = Literal["fail", "skip"]
ROW, LINE = "_tandem_row", "_tandem_line"
WHOLE = "(the whole row)"
# No text file holds it, so that a line stays in one piece.
_NEVER = "\x1f"


@dataclass(frozen=True, slots=True)
class Rows:
    """frame: ROW (from 0, in file order) and the file's columns.  skipped: misshapen rows already left out.

    locate: the line of a row, from 1, and what is wrong with the line as a whole, if anything. Slow.
    """

    file: Path
    columns: tuple[str, ...]
    frame: pl.LazyFrame
    locate: Callable[[int], tuple[int, str]]
    skipped: int = 0

    def require(self, *names: str) -> None:
        """Raises BadInput unless the file has all these columns."""
        for name in names:
            if name not in self.columns:
                raise BadInput(
                    f"{self.file} has no column {name!r}; it has {', '.join(self.columns)}. "
                    "Name the right one: `tandem data prepare --help` lists the options."
                )

    def bad_row(self, row: int, column: str, value: object, fault: str) -> BadRow:
        line, whole = self.locate(row)
        if whole:
            return BadRow(str(self.file), line, WHOLE, value, whole)
        return BadRow(str(self.file), line, column, value, fault)


def check_ids(rows: Rows, column: str, on_error: OnError) -> int:
    """How many rows have no id there. Raises BadRow for the first unless `on_error` is skip."""
    is_bad = pl.col(column).is_null() | (pl.col(column).cast(pl.String) == "")
    query = rows.frame.select(bad=is_bad.sum(), first=pl.col(ROW).filter(is_bad).min())
    bad, first = collect(query, rows.file).row(0)
    if bad and on_error == "fail":
        raise rows.bad_row(first, column, None, "is no id")
    return int(bad)


def collect(query: pl.LazyFrame, file: Path) -> pl.DataFrame:
    """In streaming mode. Raises BadInput where `file` turns out to be unreadable."""
    try:
        return query.collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{file} cannot be read: {str(error).splitlines()[0]}") from error


def parquet_rows(path: Path) -> Rows:
    """A Parquet file has no lines: the place of a row, from 1, stands for it."""
    frame = pl.scan_parquet(path, row_index_name=ROW)
    try:
        names = tuple(name for name in frame.collect_schema().names() if name != ROW)
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{path} is no Parquet file: {str(error).splitlines()[0]}.") from error
    return Rows(path, names, frame, lambda row: (row + 1, ""))


def lines(plain: Path, *, lossy: bool = False) -> pl.LazyFrame:
    """ROW and LINE, the text of every line; null for an empty one. Row r is line r + 1.

    What is no UTF-8 becomes U+FFFD where `lossy`; else collecting raises a PolarsError.
    """
    return pl.scan_csv(
        plain,
        has_header=False,
        schema={LINE: pl.String},
        separator=_NEVER,
        quote_char=None,
        truncate_ragged_lines=True,
        encoding="utf8-lossy" if lossy else "utf8",
        row_index_name=ROW,
    )


def unpack(path: Path, work: Path) -> Path:
    """`path` itself, or its content in `work`, a temporary folder, where it is gzipped."""
    if not path.is_file():
        raise BadInput(f"{path} is no file. Give a file, or a folder that holds the dataset's files.")
    if path.suffix != ".gz":
        return path
    plain = Path(tempfile.mkdtemp(dir=work)) / path.stem
    try:
        with watched(path, "unpack") as raw, gzip.open(raw) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{path} is not a whole gzip file: {error}. Download it again.") from error
    return plain
