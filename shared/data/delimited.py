"""Delimited text (CSV, TSV) as Rows. Python's csv module is the judge of quotes and widths.

A file without quotes whose lines all have the header's number of fields goes straight to polars; any other
is first rewritten, record by record, into a copy that polars cannot misread.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import IO, Literal

import polars as pl

from shared.data.rows import LINE, ROW, WHOLE, OnError, Rows, lines, unpack
from shared.data.watched import watched
from shared.errors import BadInput, BadRow


def delimited_rows(
    path: Path,
    work: Path,
    on_error: OnError,
    *,
    columns: Sequence[str] | None = None,
    separator: str = ",",
    quoted: bool = True,
) -> Rows:
    """columns: names for a file without a header line.  quoted: `"` encloses fields.

    Raises BadInput, or BadRow for a record of the wrong width or encoding unless `on_error` is skip.
    """
    plain = unpack(path, work)
    text = _Text(path, plain, separator, quoted, header=columns is None)
    names = tuple(columns) if columns is not None else text.names()
    skipped, source, has_header = 0, plain, text.header
    if text.is_suspect(len(names)):
        source, has_header = Path(tempfile.mkdtemp(dir=work)) / plain.name, False
        skipped = text.rewrite(source, len(names), on_error)
    frame = pl.scan_csv(
        source,
        has_header=has_header,
        schema=dict.fromkeys(names, pl.String),
        separator=separator,
        quote_char=None if source == plain else '"',
        row_index_name=ROW,
    )
    return Rows(path, names, frame, text.locate, skipped)


class _Text:
    def __init__(self, path: Path, plain: Path, separator: str, quoted: bool, header: bool) -> None:
        self.path, self.plain, self.separator, self.quoted, self.header = path, plain, separator, quoted, header

    def names(self) -> tuple[str, ...]:
        names = next((fields for _, fields in self._records(self.plain.open("rb")) if isinstance(fields, list)), [])
        if not all(names) or len(set(names)) != len(names) or not names:
            raise BadInput(f"{self.path} does not start with a line of distinct column names, but with {names}.")
        return tuple(names)

    def is_suspect(self, width: int) -> bool:
        """Some line is blank, holds a quote, or has another number of separators than `width` asks."""
        line = pl.col(LINE)
        odd = line.is_null() | (line.str.count_matches(self.separator, literal=True) != width - 1)
        if self.quoted:
            odd |= line.str.contains('"', literal=True)
        if width > 1:
            odd |= line.str.strip_chars(self.separator) == ""
        try:
            return bool(lines(self.plain).select(odd.any()).collect(engine="streaming").item())
        except pl.exceptions.PolarsError:  # not UTF-8
            return True

    def rewrite(self, target: Path, width: int, on_error: OnError) -> int:
        """Writes the good records to `target`, without the header, and counts the others."""
        skipped = 0
        with target.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=self.separator, lineterminator="\n", quoting=csv.QUOTE_ALL)
            for line, fields in self._body():
                fault = _fault(fields, width)
                if not fault:
                    writer.writerow(fields)
                    continue
                if on_error == "fail":
                    value = fields if isinstance(fields, str) else self.separator.join(fields)[:80]
                    raise BadRow(str(self.path), line, WHOLE, value, fault)
                skipped += 1
        return skipped

    def locate(self, row: int) -> tuple[int, str]:
        """The line of record `row`, from 0. Every record has the right shape by then."""
        return next(islice(self._body(), row, None))[0], ""

    def _body(self) -> Iterator[tuple[int, list[str] | str]]:
        records = self._records(watched(self.plain, "check"))
        if self.header:
            next(records, None)
        return records

    def _records(self, opened: AbstractContextManager[IO[bytes]]) -> Iterator[tuple[int, list[str] | str]]:
        """Records that are not blank, each with the line that it starts on; text where it cannot be parsed."""
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        with (
            opened as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
        ):
            reader = csv.reader(file, delimiter=self.separator, quoting=quoting)
            line = 1
            while True:
                try:
                    fields = next(reader, None)
                except csv.Error as error:
                    yield line, str(error)
                else:
                    if fields is None:
                        return
                    if fields:
                        yield line, fields
                line = reader.line_num + 1


def _fault(fields: list[str] | str, width: int) -> str:
    if isinstance(fields, str):
        return "cannot be parsed: a quote may be left open"
    if len(fields) != width:
        return f"has {len(fields)} fields where {width} are due"
    if any("\udc80" <= char <= "\udcff" for field in fields if not field.isascii() for char in field):
        return "is not UTF-8"
    return "" if any(fields) else "is empty"
