"""Lists of another system, read and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shared.data.lists import read, write
from shared.errors import BadInput
from tests.ranker import tiny

DATA = tiny.DATA
ITEMS = [DATA.catalog[place].id for place in (3, 1, 2)]
ADA, BOB = DATA.user_ids[:2]


def file(folder: Path, *rows: tuple[str, str]) -> Path:
    path = folder / "lists.csv"
    path.write_text("user_id,item_id\n" + "".join(f"{user},{item}\n" for user, item in rows))
    return path


def test_a_users_rows_are_a_list_best_first_also_when_others_stand_between(tmp_path: Path) -> None:
    path = file(tmp_path, (BOB, ITEMS[0]), (ADA, ITEMS[1]), (BOB, ITEMS[2]))
    found = read(path, DATA)
    assert {user: items.tolist() for user, items in found.items()} == {1: [3, 2], 0: [1]}


def test_an_item_outside_the_catalogue_takes_its_place(tmp_path: Path) -> None:
    found = read(file(tmp_path, (ADA, "gone"), (ADA, ITEMS[0])), DATA)
    assert found[0].tolist() == [0, 3]


def test_users_that_nobody_knows_are_left_out_but_not_all_of_them(tmp_path: Path) -> None:
    assert read(file(tmp_path, ("nobody", ITEMS[0]), (ADA, ITEMS[0])), DATA).keys() == {0}
    with pytest.raises(BadInput, match="first user is 'nobody'"):
        read(file(tmp_path, ("nobody", ITEMS[0])), DATA)


@pytest.mark.parametrize("item", [ITEMS[0], "gone"])
def test_an_item_twice_in_one_list_is_told(tmp_path: Path, item: str) -> None:
    with pytest.raises(BadInput, match=f"{item!r} twice"):
        read(file(tmp_path, (ADA, item), (ADA, item)), DATA)


def test_a_missing_column_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lists.csv"
    path.write_text("user,item_id\na,b\n")
    with pytest.raises(BadInput, match="no column 'user_id'"):
        read(path, DATA)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    lists = [[5, 4, 1], [], [2]]
    write(tmp_path / "new" / "lists.parquet", DATA, [2, 0, 1], lists)
    found = read(tmp_path / "new" / "lists.parquet", DATA)
    assert {user: items.tolist() for user, items in found.items()} == {2: [5, 4, 1], 1: [2]}
    assert all(items.dtype == np.int32 for items in found.values())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lists.parquet"]
