"""GroupLens's CSV releases, and ml-100k out of its wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from shared.data.movielens import TERMS, grouplens, ml_100k
from shared.data.prepare import Report, prepare
from shared.data.prepared import load
from shared.errors import BadInput, BadRow
from tests.shared.data.files import sequences, write

RATINGS = "userId,movieId,rating,timestamp\n1,10,4.0,100\n1,20,3.5,90\n2,10,1.0,5\n2,30,1.0,6\n"
MOVIES = (
    "movieId,title,genres\n"
    '20,"American President, The (1995)",Comedy|Drama\n'
    '10,"Heat (1995)",(no genres listed)\n'
    "30,,Drama\n"
)


def prepared(path: Path, out: Path) -> Report:
    return prepare("ml-latest-small", lambda work: grouplens(path, work, "fail"), out, min_user=0, min_item=0)


def folder(path: Path) -> Path:
    write(path / "ratings.csv", RATINGS)
    write(path / "movies.csv", MOVIES)
    return path


def test_a_grouplens_folder_is_read(tmp_path: Path) -> None:
    report = prepared(folder(tmp_path / "ml"), tmp_path / "out")
    data = load(tmp_path / "out")
    assert [(i.id, i.title, i.categories) for i in data.catalog.items] == [
        ("20", "American President, The (1995)", ("Comedy", "Drama")),
        ("10", "Heat (1995)", ()),
    ]
    assert sequences(data) == {"1": ["20", "10"], "2": ["10"]}
    assert report.manifest.metrics["untitled_interactions"] == 1


def test_the_zip_gives_the_bytes_of_the_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        archive.writestr("ml-latest-small/ratings.csv", RATINGS)
        archive.writestr("ml-latest-small/movies.csv", MOVIES)
        archive.writestr("../evil.csv", "x")
    zipped = prepared(tmp_path / "ml.zip", tmp_path / "zipped")
    assert zipped.manifest == prepared(folder(tmp_path / "ml"), tmp_path / "plain").manifest
    assert not list(tmp_path.rglob("evil.csv"))


def test_another_zip_or_folder_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme", "")
    write(tmp_path / "y.zip", "no zip")
    for name, message in (("x.zip", "0 files named ratings"), ("y.zip", "unzipped"), (".", r"ratings\.csv is no")):
        with pytest.raises(BadInput, match=message):
            prepared(tmp_path / name, tmp_path / "out")


def test_a_bad_rating_is_named(tmp_path: Path) -> None:
    write(folder(tmp_path) / "ratings.csv", RATINGS + "3,10,1.0,never\n")
    with pytest.raises(BadRow, match=r"ratings\.csv, line 6, column 'timestamp': 'never'"):
        prepared(tmp_path, tmp_path / "out")


def test_the_terms_speak_of_redistribution() -> None:
    assert all("edistribut" in terms and "grouplens.org" in terms for terms in TERMS.values())


@pytest.mark.real
def test_ml_100k_is_whole(tmp_path: Path) -> None:
    report = prepare("ml-100k", lambda work: ml_100k(work, "fail"), tmp_path / "out")
    assert str(report.before) == "943 users / 1,682 items / 100,000 interactions"
    data = load(tmp_path / "out")
    titles = {item.id: item.title for item in data.catalog.items}
    assert titles["1"] == "Toy Story (1995)"
    assert titles["543"] == "Misérables, Les (1995)"
    assert data.catalog[data.catalog.index("1")].categories == ("Animation", "Children's", "Comedy")
    assert min(map(len, data.sequences())) >= 5


@pytest.mark.real
def test_the_film_without_a_name_is_called_as_grouplens_calls_it(tmp_path: Path) -> None:
    items = ml_100k(tmp_path, "fail").items
    assert items.height == 1_682
    assert items.filter(items["item_id"] == "267").rows() == [("267", "unknown", [])]
    video = "Land Before Time III: The Time of the Great Giving (1995) (V)"
    assert items.filter(items["item_id"] == "1412")["title"].item() == video
