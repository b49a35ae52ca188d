"""Your own data: every format, titles here or there, and bad rows by line."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.data.rows import OnError
from shared.errors import BadInput, BadRow
from tests.shared.data.files import EVENTS, ITEMS, csv, frame, prepare_table, sequences, small_folder, write

EVENT_NAMES, ITEM_NAMES = ("user_id", "item_id", "timestamp"), ("item_id", "title")
EXPECTED = {"u1": ["b", "c", "a"], "u2": ["b", "a", "c"]}


def save(path: Path, rows: Sequence[Sequence[object]], names: Sequence[str]) -> Path:
    match path.name.partition(".")[2]:
        case "parquet":
            frame(rows, names).write_parquet(path)
        case "jsonl" | "jsonl.gz":
            write(path, "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
        case "tsv":
            write(path, csv(",".join(names), rows).replace(",", "\t"))
        case _:
            write(path, csv(",".join(names), rows))
    return path


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "jsonl.gz", "tsv", "csv", "csv.gz"])
def test_every_format_gives_the_same_data(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / f"interactions.{suffix}", EVENTS, EVENT_NAMES)
    save(tmp_path / f"items.{suffix}", ITEMS, ITEM_NAMES)
    _, data = prepare_table(tmp_path, tmp_path / "out")
    _, reference = prepare_table(small_folder(tmp_path / "csv"), tmp_path / "reference")
    assert sequences(data) == EXPECTED
    assert data.digest == reference.digest


def test_items_keep_the_order_of_their_file_and_users_that_of_their_events(tmp_path: Path) -> None:
    _, data = prepare_table(small_folder(tmp_path), tmp_path / "out")
    assert [item.id for item in data.catalog.items] == ["c", "a", "b"]
    assert data.user_ids == ["u1", "u2"]


def test_titles_may_stand_in_the_interactions(tmp_path: Path) -> None:
    """The first row with a title counts, for its categories too."""
    rows = [
        ("u", "b", 1, "", "X"),
        ("u", "a", 2, "A", "P|Q"),
        ("u", "b", 3, "B &amp; B", "R"),
        ("u", "b", 4, "C", ""),
    ]
    path = write(tmp_path / "f.csv", csv("user_id,item_id,timestamp,title,category", rows))
    _, data = prepare_table(path, tmp_path / "out")
    assert [(i.id, i.title, i.categories) for i in data.catalog.items] == [
        ("a", "A", ("P", "Q")),
        ("b", "B & B", ("R",)),
    ]
    assert sequences(data) == {"u": ["b", "a", "b", "b"]}


def test_columns_are_named_by_options(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "who,what,when,name,kind\nu,i,1,T,K\n")
    report, data = prepare_table(
        path, tmp_path / "out", user="who", item="what", time="when", title="name", category="kind"
    )
    assert data.catalog[1].title == "T"
    assert data.catalog[1].categories == ("K",)
    assert report.manifest.config["columns"]["user"] == "who"
    assert str(tmp_path) not in report.manifest.model_dump_json()


def test_a_position_does_for_time(tmp_path: Path) -> None:
    path = write(tmp_path / "f.csv", "user_id,item_id,position,title\nu,b,1,B\nu,a,0,A\n")
    _, data = prepare_table(path, tmp_path / "out")
    assert sequences(data) == {"u": ["a", "b"]}


@pytest.mark.parametrize("categories", [["x", "y"], '["x", "y"]', "x|y"])
def test_categories_are_lists_or_separated_text(tmp_path: Path, categories: object) -> None:
    save(tmp_path / "interactions.jsonl", EVENTS, EVENT_NAMES)
    save(tmp_path / "items.jsonl", [("a", "A", categories)], ("item_id", "title", "categories"))
    _, data = prepare_table(tmp_path, tmp_path / "out")
    assert data.catalog[1].categories == ("x", "y")


def test_a_list_column_of_parquet_gives_categories(tmp_path: Path) -> None:
    save(tmp_path / "interactions.parquet", EVENTS, EVENT_NAMES)
    save(tmp_path / "items.parquet", [("a", "A", ["x", None])], ("item_id", "title", "categories"))
    _, data = prepare_table(tmp_path, tmp_path / "out")
    assert data.catalog[1].categories == ("x",)


def test_json_escapes_are_resolved(tmp_path: Path) -> None:
    save(tmp_path / "interactions.jsonl", [("u\U0001f600", "é", 1)], EVENT_NAMES)
    save(tmp_path / "items.jsonl", [("é", 'a "quoted"\nline \\ \U0001f600')], ITEM_NAMES)
    _, data = prepare_table(tmp_path, tmp_path / "out")
    assert data.user_ids == ["u\U0001f600"]
    assert data.catalog[1].title == 'a "quoted" line \\ \U0001f600'


def test_numbers_are_ids_too_and_dates_are_times(tmp_path: Path) -> None:
    day = datetime.datetime(2024, 5, 1)
    rows = [(1, 20, day.replace(day=3)), (1, 10, day)]
    save(tmp_path / "interactions.parquet", rows, EVENT_NAMES)
    save(tmp_path / "items.parquet", [(10, "Ten"), (20, "Twenty")], ITEM_NAMES)
    _, data = prepare_table(tmp_path, tmp_path / "out")
    assert sequences(data) == {"1": ["10", "20"]}


def test_times_are_compared_as_numbers_and_exactly(tmp_path: Path) -> None:
    """As text 9 follows 10; as floats the two nanosecond stamps are one."""
    rows = [("u", "c", 1700000000000000001), ("u", "b", 1700000000000000000), ("u", "a", 9)]
    save(tmp_path / "interactions.csv", rows, EVENT_NAMES)
    save(tmp_path / "items.csv", ITEMS, ITEM_NAMES)
    assert sequences(prepare_table(tmp_path, tmp_path / "out")[1]) == {"u": ["a", "b", "c"]}


def test_fractions_of_a_float_column_count(tmp_path: Path) -> None:
    save(tmp_path / "interactions.parquet", [("u", "c", 1.75), ("u", "b", 1.5), ("u", "a", 1.25)], EVENT_NAMES)
    save(tmp_path / "items.csv", ITEMS, ITEM_NAMES)
    assert sequences(prepare_table(tmp_path, tmp_path / "out")[1]) == {"u": ["a", "b", "c"]}


def test_fractions_and_negative_times_are_times(tmp_path: Path) -> None:
    save(tmp_path / "interactions.csv", [("u", "c", "1.5"), ("u", "b", " 1e0"), ("u", "a", "-3")], EVENT_NAMES)
    save(tmp_path / "items.csv", ITEMS, ITEM_NAMES)
    assert sequences(prepare_table(tmp_path, tmp_path / "out")[1]) == {"u": ["a", "b", "c"]}


BAD_CSV = [
    ("u1,a,soon", "timestamp", "'soon' is no finite number"),
    ("u1,a,nan", "timestamp", "'nan' is no finite number"),
    ("u1,a,inf", "timestamp", "'inf' is no finite number"),
    ("u1,a,", "timestamp", "is no finite number"),
    (",a,1", "user_id", "is no id"),
    ("u1,,1", "item_id", "is no id"),
    (f"{'u' * 129},a,1", "user_id", "1 to 128 printable characters"),
    ("u1,a\x07,1", "item_id", "printable"),
    ("u1,a", "(the whole row)", "has 2 fields where 3 are due"),
    ("u1,a,1,4", "(the whole row)", "has 4 fields where 3 are due"),
]


@pytest.mark.parametrize(("bad", "column", "fault"), BAD_CSV)
def test_a_bad_row_is_named_by_file_line_column_and_value(tmp_path: Path, bad: str, column: str, fault: str) -> None:
    text = f"user_id,item_id,timestamp\nu1,a,1\nu1,b,2\n{bad}\nu1,c,x\n"
    path = write(tmp_path / "interactions.csv", text)
    save(tmp_path / "items.csv", ITEMS, ITEM_NAMES)
    with pytest.raises(BadRow) as raised:
        prepare_table(tmp_path, tmp_path / "out")
    assert (raised.value.file, raised.value.line, raised.value.column) == (str(path), 4, column)
    assert fault in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_skipped_rows_are_counted_in_the_manifest(tmp_path: Path) -> None:
    bad = "\n".join(row for row, _, _ in BAD_CSV)
    write(tmp_path / "interactions.csv", f"user_id,item_id,timestamp\nu1,a,1\n{bad}\nu1,b,2\n")
    save(tmp_path / "items.csv", ITEMS, ITEM_NAMES)
    report, data = prepare_table(tmp_path, tmp_path / "out", on_error="skip")
    assert report.skipped == report.manifest.metrics["skipped_rows"] == len(BAD_CSV)
    assert sequences(data) == {"u1": ["a", "b"]}


BAD_JSON = [
    ('{"user_id": "u", "item_id": "a\\ud83d", "timestamp": 1}', "(the whole row)", "half of a surrogate pair"),
    ("nonsense", "(the whole row)", "is no JSON"),
    ("[1, 2]", "(the whole row)", "is no JSON object"),
    ('{"item_id": "a", "timestamp": 1}', "user_id", "is no id"),
    ('{"user_id": "u", "item_id": null, "timestamp": 1}', "item_id", "is no id"),
    ('{"user_id": "u", "item_id": "a", "timestamp": "late"}', "timestamp", "'late' is no finite number"),
]


@pytest.mark.parametrize(("bad", "column", "fault"), BAD_JSON)
def test_a_bad_line_of_json_is_named(tmp_path: Path, bad: str, column: str, fault: str) -> None:
    good = '{"user_id": "u", "item_id": "a", "timestamp": 1}\n'
    write(tmp_path / "interactions.jsonl", f"{good}\n{good}{bad}\n{bad}\n")
    save(tmp_path / "items.csv", ITEMS, ITEM_NAMES)
    with pytest.raises(BadRow) as raised:
        prepare_table(tmp_path, tmp_path / "out")
    assert (raised.value.line, raised.value.column) == (4, column)
    assert fault in str(raised.value)
    report, _ = prepare_table(tmp_path, tmp_path / "out", on_error="skip")
    assert report.skipped == 2


def test_json_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    good = b'\xef\xbb\xbf{"user_id": "u", "item_id": "a", "timestamp": 1}\r\n'
    (tmp_path / "interactions.jsonl").write_bytes(good + b'{"user_id": "\xff", "item_id": "a", "timestamp": 1}')
    save(tmp_path / "items.csv", ITEMS, ITEM_NAMES)
    with pytest.raises(BadRow, match="line 2, column 'user_id': '\ufffd'"):
        prepare_table(tmp_path, tmp_path / "out")
    _, data = prepare_table(tmp_path, tmp_path / "out", on_error="skip")
    assert sequences(data) == {"u": ["a"]}


def test_a_bad_row_of_parquet_is_named_by_its_place(tmp_path: Path) -> None:
    save(tmp_path / "interactions.parquet", [("u", "a", 1.0), ("u", "b", float("nan"))], EVENT_NAMES)
    save(tmp_path / "items.csv", ITEMS, ITEM_NAMES)
    with pytest.raises(BadRow) as raised:
        prepare_table(tmp_path, tmp_path / "out")
    assert (raised.value.line, raised.value.column) == (2, "timestamp")


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_an_item_row_without_id_is_bad(tmp_path: Path, on_error: OnError) -> None:
    save(tmp_path / "interactions.csv", EVENTS, EVENT_NAMES)
    write(tmp_path / "items.csv", "item_id,title\na,A\n,B\n")
    if on_error == "fail":
        with pytest.raises(BadRow, match=r"items\.csv, line 3, column 'item_id'"):
            prepare_table(tmp_path, tmp_path / "out", on_error=on_error)
    else:
        report, _ = prepare_table(tmp_path, tmp_path / "out", on_error=on_error)
        assert report.manifest.metrics["skipped_item_rows"] == 1


def test_of_a_repeated_item_the_first_title_counts(tmp_path: Path) -> None:
    save(tmp_path / "interactions.csv", EVENTS, EVENT_NAMES)
    save(tmp_path / "items.csv", [("a", ""), ("a", "One"), ("b", "B"), ("a", "Two")], ITEM_NAMES)
    _, data = prepare_table(tmp_path, tmp_path / "out")
    assert [(i.id, i.title) for i in data.catalog.items] == [("a", "One"), ("b", "B")]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, r"holds 0 files interactions\.\*"),
        ({"interactions.csv": "a,b\n1,2\n"}, {}, "no column 'user_id'; it has a, b"),
        ({"interactions.csv": "user_id,item_id,timestamp\nu,i,1\n"}, {}, "--items"),
        ({"interactions.csv": "user_id,item_id,timestamp,title\nu,i,1,T\n"}, {"time": "when"}, "no column 'when'"),
        ({"interactions.csv": "user_id,item_id,timestamp,title\n"}, {}, "nothing is left of 0 users"),
        ({"interactions.csv": "user_id,item_id,timestamp,title\nu,i,1,\n"}, {}, "nothing is left of 1 users"),
        ({"interactions.csv": "x\n", "interactions.jsonl": "{}\n"}, {}, "holds 2 files"),
        ({"interactions.jsonl": "1\n"}, {}, "no JSON object in its first"),
        ({"interactions.parquet": "PAR1 it is not"}, {}, "no Parquet file"),
    ],
    ids=["empty", "columns", "titles", "time", "no rows", "untitled", "two", "json", "parquet"],
)
def test_what_cannot_be_prepared_says_why(
    tmp_path: Path, files: dict[str, str], options: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        write(tmp_path / name, text)
    with pytest.raises(BadInput, match=message):
        prepare_table(tmp_path, tmp_path / "out", None, **options)


def test_a_file_of_no_known_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no known format.*\.parquet"):
        prepare_table(write(tmp_path / "f.xlsx", "x"), tmp_path / "out")
    with pytest.raises(BadInput, match="does not exist"):
        prepare_table(tmp_path / "nowhere.csv", tmp_path / "out")
