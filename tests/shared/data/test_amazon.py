"""The 2014 release: ratings without header, metadata in JSON or in Python literals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.data.amazon import amazon
from shared.data.prepare import Report, prepare
from shared.data.prepared import load
from shared.data.rows import OnError
from shared.errors import BadInput, BadRow
from tests.shared.data.files import sequences, write

RATINGS = "A1,B001,5.0,1400000000\nA2,B001,4.0,1300000000\nA1,B002,1.0,1300000000\nA1,B003,1.0,1\n"
META = [
    {
        "asin": "B002",
        "title": "L&#39;Or&eacute;al &amp; Co",
        "categories": [["Beauty", "Hair"], ["Beauty", "Men"]],
    },
    {"asin": "B001", "title": "Soap\nbar", "price": 3.5, "related": {"also_bought": ["B9"]}},
    {"asin": "B003", "categories": [["Beauty"]]},
]


def prepared(path: Path, out: Path, items: Path | None = None, on_error: OnError = "fail") -> Report:
    return prepare(
        "amazon",
        lambda work: amazon(path, items, work, on_error),
        out,
        min_user=0,
        min_item=0,
        on_error=on_error,
    )


@pytest.mark.parametrize("dump", [json.dumps, repr], ids=["json", "python"])
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_the_release_is_read(tmp_path: Path, dump: object, gz: str) -> None:
    write(tmp_path / f"ratings_Beauty.csv{gz}", RATINGS)
    meta = "".join(dump(record) + "\n" for record in META)  # type: ignore[operator]
    write(tmp_path / f"meta_Beauty.json{gz}", meta)
    report = prepared(tmp_path, tmp_path / "out")
    data = load(tmp_path / "out")
    assert [(i.id, i.title, i.categories) for i in data.catalog.items] == [
        ("B002", "L'Oréal & Co", ("Beauty", "Hair", "Men")),
        ("B001", "Soap bar", ()),
    ]
    assert sequences(data) == {"A1": ["B002", "B001"], "A2": ["B001"]}
    assert report.manifest.metrics["untitled_interactions"] == 1


def test_the_two_files_may_be_named(tmp_path: Path) -> None:
    ratings, meta = write(tmp_path / "r.txt", RATINGS), write(tmp_path / "m.txt", json.dumps(META[1]))
    assert prepared(ratings, tmp_path / "out", meta).after.items == 1
    with pytest.raises(BadInput, match="--items"):
        prepared(ratings, tmp_path / "out2")


def test_a_folder_must_hold_one_of_each(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", RATINGS)
    with pytest.raises(BadInput, match="0 metadata files"):
        prepared(tmp_path, tmp_path / "out")
    write(tmp_path / "b.csv", RATINGS)
    with pytest.raises(BadInput, match=r"2 ratings files.*a\.csv, b\.csv"):
        prepared(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "column"),
    [("{'asin': open('x')}", "(the whole row)"), ("[" * 5_000, "(the whole row)"), ('{"title": "x"}', "asin")],
    ids=["code", "deep", "no asin"],
)
def test_a_bad_line_of_metadata_is_named_or_skipped(tmp_path: Path, line: str, column: str) -> None:
    write(tmp_path / "r.csv", RATINGS)
    write(tmp_path / "m.json", f"{json.dumps(META[0])}\n\n{line}\n{json.dumps(META[1])}\n")
    with pytest.raises(BadRow) as raised:
        prepared(tmp_path, tmp_path / "out")
    assert (raised.value.file, raised.value.line) == (str(tmp_path / "m.json"), 3)
    assert raised.value.column == column
    report = prepared(tmp_path, tmp_path / "out", on_error="skip")
    assert report.manifest.metrics["skipped_item_rows"] == 1
    assert report.after.items == 2


def test_a_bad_rating_is_named(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", RATINGS + "A1,B001,5.0\n")
    write(tmp_path / "m.json", json.dumps(META[0]))
    with pytest.raises(BadRow, match=r"r\.csv, line 5.*3 fields where 4"):
        prepared(tmp_path, tmp_path / "out")


def test_cut_off_metadata_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "r.csv", RATINGS)
    whole = write(tmp_path / "m.json.gz", "".join(json.dumps(record) + "\n" for record in META)).read_bytes()
    (tmp_path / "m.json.gz").write_bytes(whole[:-20])
    with pytest.raises(BadInput, match="not a whole gzip"):
        prepared(tmp_path, tmp_path / "out")
