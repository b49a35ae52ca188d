"""MovieLens: ml-100k out of the RecBole wheel, and the CSV releases of GroupLens (ml-latest-small and its kin)."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import polars as pl

from shared.data.delimited import delimited_rows
from shared.data.rows import OnError, check_ids
from shared.data.source import Source, item_table
from shared.data.wheel import fetch_members
from shared.errors import BadInput

_TERMS = """\
MovieLens data: GroupLens Research, University of Minnesota (https://grouplens.org/datasets/movielens/).
For research; acknowledge it in publications (Harper and Konstan 2015, doi:10.1145/2827872); imply no
endorsement; no commercial use without GroupLens's permission. """
TERMS = {
    "ml-100k": _TERMS + "Redistribution too needs permission:\nTandem downloads it for you and ships none of it.",
    "ml-latest-small": _TERMS + "Redistribute it, also transformed, only\nunder these same terms.",
}

WHEEL = "recbole==1.2.1"
_FOLDER = "recbole/dataset_example/ml-100k"
FILES = {
    f"{_FOLDER}/ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    f"{_FOLDER}/ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
_NO_YEAR = "unkonwn"  # RecBole's spelling, for the one film without title and year
_NO_GENRES = {"unknown", "(no genres listed)"}


def ml_100k(work: Path, on_error: OnError) -> Source:
    """943 users, 1,682 films, 100,000 ratings."""
    events, items = fetch_members(WHEEL, FILES)
    ratings = delimited_rows(events, work, on_error, separator="\t", quoted=False)
    films = delimited_rows(items, work, on_error, separator="\t", quoted=False)
    rows = films.frame.select("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq")
    return Source(
        events=ratings,
        user="user_id:token",
        item="item_id:token",
        time="timestamp:float",
        items=item_table(
            (item_id, _title(title or "", year or _NO_YEAR), _genres((genres or "").split()))
            for item_id, title, year, genres in rows.collect().iter_rows()
        ),
        config={"wheel": WHEEL},
    )


def grouplens(path: Path, work: Path, on_error: OnError) -> Source:
    """A folder with ratings.csv and movies.csv, or GroupLens's zip of it."""
    folder = _unzip(path, work) if path.suffix == ".zip" else path
    ratings = delimited_rows(folder / "ratings.csv", work, on_error)
    films = delimited_rows(folder / "movies.csv", work, on_error)
    ratings.require("userId", "movieId", "timestamp")
    films.require("movieId", "title", "genres")
    rows = films.frame.filter(pl.col("movieId").is_not_null()).select("movieId", "title", "genres")
    return Source(
        events=ratings,
        user="userId",
        item="movieId",
        time="timestamp",
        items=item_table(
            (item_id, title or "", _genres((genres or "").split("|")))
            for item_id, title, genres in rows.collect().iter_rows()
        ),
        notes={"skipped_item_rows": films.skipped + check_ids(films, "movieId", on_error)},
    )


def _title(title: str, year: str) -> str:
    """As GroupLens writes it: "Toy Story (1995)". RecBole split the year off."""
    if year != _NO_YEAR:
        return f"{title} ({year})"
    return "unknown" if title == _NO_YEAR else title


def _genres(names: list[str]) -> list[str]:
    return [name for name in names if name not in _NO_GENRES]


def _unzip(path: Path, work: Path) -> Path:
    """Only the two files that are read, under names of ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ("ratings.csv", "movies.csv"):
                found = [n for n in archive.namelist() if n == name or n.endswith("/" + name)]
                if len(found) != 1:
                    raise BadInput(f"{path} holds {len(found)} files named {name}, not 1: it is no MovieLens zip.")
                with archive.open(found[0]) as source, (work / name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except (OSError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} cannot be unzipped: {error}. Download it again.") from error
    return work
