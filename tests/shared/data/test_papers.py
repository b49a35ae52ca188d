"""The papers' evaluation sets, in miniature."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from shared.data import collm, llara
from shared.data.pairs import left_padded, real
from shared.errors import BadInput
from tests.ranker import tiny


def collm_folder(folder: Path) -> Path:
    """User 7 likes items 11 and 12; item 30 is cold and stands in the test alone."""
    rows = {
        "train": [(7, 11, 1, [0], [""], "Alien", 1), (7, 12, 1, [0, 11], ["", "Alien"], "Brazil", 1)],
        "valid": [(7, 13, 0, [0, 11, 12], ["", "Alien", "Brazil"], "Casino", 1)],
        "test": [(9, 30, 1, [0, 14], ["", "Diva"], "Eraser", 0), (7, 11, 0, [0, 12], ["", "Brazil"], "Alien", 1)],
    }
    names = ["user_id", "item_id", "label", "history_item_ids", "history_titles", "title", "not_cold"]
    folder.mkdir(parents=True, exist_ok=True)
    for split, made in rows.items():
        pl.DataFrame(made, schema=names, orient="row").write_parquet(folder / f"{split}.parquet")
    return folder


def test_collm_pairs_are_read_with_their_histories(tmp_path: Path) -> None:
    data = collm.read(collm_folder(tmp_path), window=3)
    assert [(item.id, item.title) for item in data.catalog.items] == [
        ("11", "Alien"),
        ("12", "Brazil"),
        ("13", "Casino"),
        ("14", "Diva"),
        ("30", "Eraser"),
    ]
    assert data.user_ids == ("7", "9")
    assert data.test.users_N.tolist() == [2, 1]
    assert data.test.items_N.tolist() == [5, 1]
    assert data.test.labels_N.tolist() == [1, 0]
    assert data.test.warm_N.tolist() == [False, True]
    assert data.test.histories_NL.tolist() == [[0, 0, 4], [0, 0, 2]]
    assert data.valid.histories_NL.tolist() == [[0, 1, 2]]


def test_the_digest_of_collm_changes_with_a_row(tmp_path: Path) -> None:
    one = collm.read(collm_folder(tmp_path / "a"), window=3)
    changed = pl.read_parquet(collm_folder(tmp_path / "b") / "test.parquet").with_columns(label=0)
    changed.write_parquet(tmp_path / "b" / "test.parquet")
    assert collm.read(tmp_path / "b", window=3).digest != one.digest


def test_other_folders_are_refused_by_what_they_lack(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train\.parquet is missing"):
        collm.read(tmp_path, window=3)
    collm_folder(tmp_path)
    pl.read_parquet(tmp_path / "valid.parquet").drop("label").write_parquet(tmp_path / "valid.parquet")
    with pytest.raises(BadInput, match=r"valid\.parquet has no column 'label'"):
        collm.read(tmp_path, window=3)
    with pytest.raises(BadInput, match=r"no column 'seq'"):
        llara.read(tmp_path)


def test_what_is_no_parquet_and_what_lacks_items_is_refused_by_name(tmp_path: Path) -> None:
    collm_folder(tmp_path)
    (tmp_path / "valid.parquet").write_text("user,item\n")
    with pytest.raises(BadInput, match=r"valid\.parquet cannot be read as Parquet"):
        collm.read(tmp_path, window=3)
    for split in ("train", "valid", "test"):
        frame([([0, 1, 1], 7)]).write_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(BadInput, match=r"items\.parquet is missing"):
        llara.read(tmp_path)
    pl.DataFrame({"item_id": [0, 1], "title": ["Alien", "Brazil"]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(BadInput, match=r"1 rows ask for items that the catalogue does not have; the first is 7"):
        llara.read(tmp_path)


def frame(rows: list[tuple[list[int], int]], **more: list[int]) -> pl.DataFrame:
    columns = {"seq": [seq for seq, _ in rows], "len_seq": [3] * len(rows), "next": [n for _, n in rows]}
    return pl.DataFrame(columns | more)


def test_llaras_lastfm_counts_items_from_zero_and_drops_short_training_rows(tmp_path: Path) -> None:
    items = {"item_id": [2, 0, 1, 3], "title": ["Casino", "Alien", "Brazil", "Diva"]}
    pl.DataFrame(items).write_parquet(tmp_path / "items.parquet")
    frame([([0, 4, 4], 1), ([0, 1, 2], 3)]).write_parquet(tmp_path / "train.parquet")
    for split in ("valid", "test"):
        frame([([1, 4, 4], 0)]).write_parquet(tmp_path / f"{split}.parquet")
    short = llara.read(tmp_path, window=2, shortest=1)
    assert [real(h) for h in short.train.histories_NL] == [[1], [2, 3]]
    data = llara.read(tmp_path)
    assert list(data.catalog.titles) == ["", "Alien", "Brazil", "Casino", "Diva"]
    assert [real(h) for h in data.train.histories_NL] == [[1, 2, 3]]
    assert data.train.nexts_N.tolist() == [4]
    assert [real(h) for h in data.test.histories_NL] == [[2]]
    assert data.test.nexts_N.tolist() == [1]


def test_llaras_movielens_trains_on_everybody_else(tmp_path: Path) -> None:
    catalog = tiny.of("Alien", "Brazil", "Casino", "Diva", "Eraser")
    numbered = type(catalog)(tuple(type(i)(i.id[1:], i.title) for i in catalog.items))
    everyone = tiny.prepared([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [1, 3, 5, 2, 4]], numbered)
    object.__setattr__(everyone, "user_ids", ["1", "2", "3"])
    frame([([4, 3, 2], 1)], ml100k_user_id=[2]).write_parquet(tmp_path / "valid.parquet")
    frame([([0, 2, 4], 1)], ml100k_user_id=[3]).write_parquet(tmp_path / "test.parquet")
    data = llara.read(tmp_path, everyone)
    assert [real(h) for h in data.train.histories_NL] == [[1, 2, 3], [1, 2, 3, 4]]
    assert data.train.nexts_N.tolist() == [4, 5]
    assert ([real(h) for h in data.test.histories_NL], data.test.nexts_N.tolist()) == ([[1, 3, 5]], [2])
    with pytest.raises(BadInput, match="holds no titles"):
        llara.read(tmp_path)


def test_padding_keeps_the_last_items() -> None:
    assert left_padded([[1, 2, 3], [], [4]], 2).tolist() == [[2, 3], [0, 0], [0, 4]]
    assert real([0, 0, 4, 1]) == [4, 1]
