"""The pipeline: its order, its counts, its numbers, and the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.artifact import sha256
from shared.data.prepared import INTERACTIONS, ITEMS, USERS, load
from shared.errors import BadInput, BadRow, CatalogMismatch, ChecksumMismatch, MissingFile, UnknownUser
from tests.shared.data.files import EVENTS, csv, prepare_table, sequences, small_folder, write
from tests.shared.data.files import ITEMS as ROWS

ROOT = Path(__file__).parents[3]
LOG = st.lists(st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcde"), st.integers(0, 3)), min_size=1, max_size=40)
HEADER = "user_id,item_id,timestamp,title"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(LOG)
def test_events_stand_by_time_and_ties_by_their_row(tmp_path: Path, log: list[tuple[str, str, int]]) -> None:
    path = write(tmp_path / "f.csv", csv(HEADER, [(*event, "T" + event[1]) for event in log]))
    _, data = prepare_table(path, tmp_path / "out")
    users = list(dict.fromkeys(user for user, _, _ in log))
    expected = {
        user: [item for _, item, _ in sorted((e for e in log if e[0] == user), key=lambda e: e[2])] for user in users
    }
    assert sequences(data) == expected
    assert data.user_ids == users
    assert [item.id for item in data.catalog.items] == list(dict.fromkeys(item for _, item, _ in log))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(LOG, st.integers(0, 4), st.integers(0, 4))
def test_what_is_left_has_enough_events(
    tmp_path: Path, log: list[tuple[str, str, int]], min_user: int, min_item: int
) -> None:
    path = write(tmp_path / "f.csv", csv(HEADER, [(*event, "T" + event[1]) for event in log]))
    try:
        report, data = prepare_table(path, tmp_path / "out", min_user=min_user, min_item=min_item)
    except BadInput:
        return
    counts = pl.Series(data.items_N).value_counts()["count"]
    assert min(map(len, data.sequences())) >= min_user
    assert counts.min() >= min_item  # type: ignore[operator]
    assert (report.after.users, report.after.items, report.after.interactions) == (
        len(data),
        len(data.catalog),
        len(data.items_N),
    )
    assert len(counts) == len(data.catalog)


def test_untitled_items_go_before_the_core(tmp_path: Path) -> None:
    """User u has 2 events, but one of them is of an item without a title: not a 2-core."""
    rows = [
        ("u", "a", 1, "A"),
        ("u", "x", 2, ""),
        ("v", "a", 1, "A"),
        ("v", "b", 2, "B"),
        ("w", "a", 1, ""),
        ("w", "b", 1, ""),
    ]
    report, data = prepare_table(write(tmp_path / "f.csv", csv(HEADER, rows)), tmp_path / "out", min_user=2, min_item=2)
    assert sequences(data) == {"v": ["a", "b"], "w": ["a", "b"]}
    assert str(report.before) == "3 users / 3 items / 6 interactions"
    assert str(report.after) == "2 users / 2 items / 4 interactions"
    assert report.manifest.metrics["untitled_interactions"] == 1


def test_repeated_events_are_kept(tmp_path: Path) -> None:
    rows = [("u", "a", 1, "A"), ("u", "a", 1, "A"), ("u", "b", 2, "B"), ("u", "a", 3, "A")]
    _, data = prepare_table(write(tmp_path / "f.csv", csv(HEADER, rows)), tmp_path / "out")
    assert sequences(data) == {"u": ["a", "a", "b", "a"]}


def test_the_folder_holds_what_its_description_says(tmp_path: Path) -> None:
    report, _ = prepare_table(small_folder(tmp_path), tmp_path / "out")
    items, users, events = (pl.read_parquet(tmp_path / "out" / name) for name in (ITEMS, USERS, INTERACTIONS))
    assert items.schema == {"item_id": pl.String, "title": pl.String, "categories": pl.List(pl.String)}
    assert users.schema == {"user_id": pl.String}
    assert events.schema == {"user": pl.Int32, "item": pl.Int32}
    assert events.rows() == [(0, 3), (0, 1), (0, 2), (1, 3), (1, 2), (1, 1)]
    assert report.manifest.kind == "data"
    assert report.manifest.metrics["interactions_after"] == len(EVENTS)


SCRIPT = """
import sys
from pathlib import Path
from tests.shared.data.files import prepare_table
prepare_table(Path(sys.argv[1]), Path(sys.argv[2]), min_user=2, min_item=2)
"""


def test_the_same_input_gives_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    rows = [(f"u{n * 7 % 90}", f"i{n * 31 % 211}", n * 13 % 17) for n in range(4_000)]
    write(tmp_path / "in" / "interactions.csv", csv("user_id,item_id,timestamp", rows))
    items = [(f"i{n}", f"Item {n}", f"c{n % 5}|c{n % 3}") for n in range(211)]
    write(tmp_path / "in" / "items.csv", csv("item_id,title,category", items))
    sums = []
    for seed, threads in (("0", "1"), ("1", "2"), ("4294967295", "4")):
        out = tmp_path / f"out{seed}"
        environment = os.environ | {"PYTHONHASHSEED": seed, "POLARS_MAX_THREADS": threads}
        subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "in", out], env=environment, cwd=ROOT, check=True)
        sums.append({file.name: sha256(file) for file in sorted(out.iterdir())})
    assert sums[0] == sums[1] == sums[2]
    assert set(sums[0]) == {ITEMS, USERS, INTERACTIONS, "manifest.json"}


def test_the_digest_is_of_the_data_alone(tmp_path: Path) -> None:
    _, one = prepare_table(small_folder(tmp_path / "x"), tmp_path / "one")
    _, same = prepare_table(small_folder(tmp_path / "y"), tmp_path / "same", min_user=1)
    write(tmp_path / "y" / "interactions.csv", csv("user_id,item_id,timestamp", EVENTS[:-1]))
    _, fewer = prepare_table(tmp_path / "y", tmp_path / "fewer")
    write(
        tmp_path / "y" / "interactions.csv",
        csv("user_id,item_id,timestamp", [("new" + u, *e) for u, *e in EVENTS]),
    )
    _, renamed = prepare_table(tmp_path / "y", tmp_path / "renamed")
    assert one.digest == same.digest
    assert len({one.digest, fewer.digest, renamed.digest}) == 3
    assert one.manifest.catalog_fingerprint == renamed.manifest.catalog_fingerprint


def test_a_failed_preparation_leaves_the_old_folder(tmp_path: Path) -> None:
    _, old = prepare_table(small_folder(tmp_path), tmp_path / "out")
    write(tmp_path / "interactions.csv", "user_id,item_id,timestamp\nu,a,x\n")
    with pytest.raises(BadRow):
        prepare_table(tmp_path, tmp_path / "out")
    assert load(tmp_path / "out").digest == old.digest


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="will not be replaced"):
        prepare_table(small_folder(tmp_path), tmp_path)
    assert (tmp_path / "items.csv").exists()


def test_nothing_temporary_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    write(tmp_path / "in" / "interactions.csv.gz", csv(HEADER, [("u", "a", 1, '"A"')]))
    prepare_table(tmp_path / "in", tmp_path / "out")
    assert list(scratch.iterdir()) == []


def test_a_damaged_gzip_file_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "in" / "interactions.csv.gz"
    rows = [(f"u{n}", "a", n, '"A"') for n in range(500)]
    write(path, csv(HEADER, rows))
    content = bytearray(path.read_bytes())
    content[40:90] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(BadInput, match="is not a whole gzip file"):
        prepare_table(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", [ITEMS, USERS, INTERACTIONS])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    prepare_table(small_folder(tmp_path), tmp_path / "out")
    file = tmp_path / "out" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ChecksumMismatch, match=name):
        load(tmp_path / "out")
    file.unlink()
    with pytest.raises(MissingFile, match=name):
        load(tmp_path / "out")


def test_data_of_another_catalogue_does_not_pass_for_a_models(tmp_path: Path) -> None:
    _, data = prepare_table(small_folder(tmp_path), tmp_path / "out")
    write(tmp_path / "items.csv", csv("item_id,title", [(i, t + "!") for i, t in ROWS]))
    _, other = prepare_table(tmp_path, tmp_path / "other")
    with pytest.raises(CatalogMismatch, match="models/lrurec"):
        other.catalog.require(data.manifest.catalog_fingerprint, "models/lrurec")


def test_users_are_found_by_id(tmp_path: Path) -> None:
    _, data = prepare_table(small_folder(tmp_path), tmp_path / "out")
    assert data.history("u2").items == (3, 2, 1)
    assert data.user_ids[data.user("u2")] == data.history("u2").user_id == "u2"
    with pytest.raises(UnknownUser, match="'nobody'"):
        data.user("nobody")
