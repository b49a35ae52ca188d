"""The retriever that ships is whole, small, and the one that the shipped rankers' blends were fitted to."""

from __future__ import annotations

from ranker.registry import SHIPPED as RANKERS
from retriever.retrieve import SHIPPED
from shared.artifact import open_artifact

FOLDER = SHIPPED / "lrurec-ml-100k"
MEGABYTES = 1_500_000


def test_it_is_whole_and_small() -> None:
    open_artifact(FOLDER, "retriever", methods=("lrurec",))
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= MEGABYTES


def test_the_shipped_rankers_were_blended_with_it() -> None:
    retriever = open_artifact(FOLDER, "retriever")
    for folder in RANKERS.iterdir():
        ranker = open_artifact(folder, "ranker")
        assert ranker.extra["blended_with"] == retriever.name
        assert ranker.catalog_fingerprint == retriever.catalog_fingerprint
