"""CSV as Python's csv module reads it, with every row's line known."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.data.delimited import delimited_rows
from shared.data.rows import ROW, OnError, Rows
from shared.errors import BadInput, BadRow
from tests.shared.data.files import write


def read(path: Path, content: str | bytes, on_error: OnError = "fail", **options: object) -> Rows:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return delimited_rows(path, path.parent, on_error, **options)  # type: ignore[arg-type]


def cells(rows: Rows) -> list[tuple[str | None, ...]]:
    return rows.frame.collect().drop(ROW).rows()


def lines(rows: Rows) -> list[int]:
    return [rows.locate(row)[0] for row in rows.frame.select(ROW).collect().to_series()]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_plain_file_is_read_as_text(tmp_path: Path, end: str, bom: str) -> None:
    rows = read(tmp_path / "f.csv", bom + end.join(["u,i,t", "1,007,5", "x,y,"]))
    assert rows.columns == ("u", "i", "t")
    assert cells(rows) == [("1", "007", "5"), ("x", "y", None)]
    assert lines(rows) == [2, 3]


def test_quotes_newlines_and_blank_lines_keep_their_lines(tmp_path: Path) -> None:
    rows = read(tmp_path / "f.csv", 'u,t\n\na,"x\ny, ""z"""\n\nb,c\n')
    assert cells(rows) == [("a", 'x\ny, "z"'), ("b", "c")]
    assert lines(rows) == [3, 6]


def test_a_file_without_header_is_given_names(tmp_path: Path) -> None:
    rows = read(tmp_path / "f.csv", "a,1\nb,2\n", columns=["u", "t"])
    assert cells(rows) == [("a", "1"), ("b", "2")]
    assert lines(rows) == [1, 2]


def test_a_quote_is_a_letter_where_nothing_is_quoted(tmp_path: Path) -> None:
    rows = read(tmp_path / "f.tsv", 'u\tt\n\n"a\t1\n', separator="\t", quoted=False)
    assert cells(rows) == [('"a', "1")]
    assert lines(rows) == [3]


def test_gzip_is_unpacked(tmp_path: Path) -> None:
    rows = delimited_rows(write(tmp_path / "f.csv.gz", "u,t\na,1\n"), tmp_path, "fail")
    assert cells(rows) == [("a", "1")]
    assert rows.file.name == "f.csv.gz"


def test_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    one, two = (write(tmp_path / d / "f.csv.gz", f'u,t\n{d},"1"\n') for d in "ab")
    first, second = delimited_rows(one, tmp_path, "fail"), delimited_rows(two, tmp_path, "fail")
    assert cells(first) == [("a", "1")]
    assert cells(second) == [("b", "1")]


@pytest.mark.parametrize(
    ("content", "line", "value", "fault"),
    [
        ("u,t\na,1\nb\n", 3, "b", "has 1 fields where 2 are due"),
        ("u,t\na,1\nb,2,3\n", 3, "b,2,3", "has 3 fields where 2 are due"),
        ("u,t\n\n,\n", 3, ",", "is empty"),
        ('u,t\n"a\nb",1\n\nc\n', 5, "c", "has 1 fields"),
        (b"u,t\na,1\nb\xff,2\n", 3, "b\\udcff,2", "is not UTF-8"),
        ('u,t\na,1\n"b,2\nc,3\n', 3, "b,2\\nc,3", "has 1 fields"),
    ],
    ids=["few", "many", "empty", "after quoted newline", "encoding", "open quote"],
)
def test_a_misshapen_row_is_named(tmp_path: Path, content: str | bytes, line: int, value: str, fault: str) -> None:
    with pytest.raises(BadRow) as raised:
        read(tmp_path / "f.csv", content)
    assert raised.value.line == line
    for part in (str(tmp_path / "f.csv"), f"line {line}", value, fault, "--on-error skip"):
        assert part in str(raised.value)


def test_misshapen_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    rows = read(tmp_path / "f.csv", b"u,t\na,1\nb\n\xff,1\n,\nc,2,3\nd,4\n", "skip")
    assert cells(rows) == [("a", "1"), ("d", "4")]
    assert rows.skipped == 4


def test_a_quote_left_open_for_long_is_one_bad_row(tmp_path: Path) -> None:
    content = 'u,t\na,1\n"b' + "x" * 200_000 + "\nc,2\n"
    with pytest.raises(BadRow, match=r"line 3.*a quote may be left open"):
        read(tmp_path / "f.csv", content)
    assert cells(read(tmp_path / "f.csv", content, "skip"))[0] == ("a", "1")


@pytest.mark.parametrize("content", ["", "\n\n", "u,u\n1,2\n", "u,\n1,2\n"])
def test_a_header_needs_distinct_names(tmp_path: Path, content: str) -> None:
    with pytest.raises(BadInput, match="distinct column names"):
        read(tmp_path / "f.csv", content)


def test_what_is_no_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.csv.gz").write_bytes(b"u,t\n")
    with pytest.raises(BadInput, match="not a whole gzip"):
        delimited_rows(tmp_path / "f.csv.gz", tmp_path, "fail")


TEXT = st.text(alphabet="ab,\"\n\r ;é'", max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT).filter(any), max_size=8))
def test_whatever_csv_wrote_is_read_back(tmp_path: Path, records: list[tuple[str, str, str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("x", "y", "z"), *records])
    rows = read(tmp_path / "f.csv", text.getvalue())
    assert rows.frame.select(pl.col("x", "y", "z").fill_null("")).collect().rows() == records
