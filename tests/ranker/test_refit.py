"""A retriever trained anew gets a blend of its own; the language model's part stays to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ranker.fit import ADAPTER
from ranker.refit import refit
from ranker.registry import load
from shared.artifact import MANIFEST, Manifest, seal
from shared.candidate import Candidate
from shared.errors import CatalogMismatch
from shared.history import History
from tests.ranker import tiny


class Clairvoyant(tiny.Neighbours):
    """Puts what comes next first, whatever its fellow puts there."""

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        found = super().retrieve(histories, k, exclude)
        return [self._next_first(h.items[-1] % self.items + 1, row) for h, row in zip(histories, found, strict=True)]

    def _next_first(self, item: int, row: list[Candidate]) -> list[Candidate]:
        return [Candidate(item, 50.0), *(c for c in row if c.item != item)][: len(row)]


def test_a_retriever_that_knows_everything_leaves_the_model_no_say(bpe_folder: Path, tmp_path: Path) -> None:
    before = tiny.trained(tmp_path / "out", bpe_folder)
    weights = (tmp_path / "out" / ADAPTER).read_bytes()
    after = refit(tiny.DATA, Clairvoyant(tiny.ITEMS), "clairvoyant@2", tmp_path / "out", "cpu")
    assert after.extra["blend"] == 0
    assert after.extra["blended_with"] == "clairvoyant@2"
    assert (tmp_path / "out" / ADAPTER).read_bytes() == weights
    assert after.extra["golden"] == before.extra["golden"]
    assert load(tmp_path / "out", tiny.DATA.catalog).manifest == after


def test_fitting_again_to_the_same_retriever_changes_nothing(bpe_folder: Path, tmp_path: Path) -> None:
    before = tiny.trained(tmp_path / "out", bpe_folder)
    after = refit(tiny.DATA, tiny.Neighbours(tiny.ITEMS), "neighbours@1", tmp_path / "out", "cpu")
    assert after.extra["blend"] == before.extra["blend"]
    assert after.version == before.version


def test_a_weight_may_be_given_and_the_fit_is_told_all_the_same(bpe_folder: Path, tmp_path: Path) -> None:
    before = tiny.trained(tmp_path / "out", bpe_folder)
    after = refit(tiny.DATA, tiny.Neighbours(tiny.ITEMS), "neighbours@1", tmp_path / "out", "cpu", weight=1.0)
    assert after.extra["blend"] == 1.0
    told = after.metrics
    assert told["blend_curve"] == before.metrics["blend_curve"]
    assert told["blend_likeliest"] == before.metrics["blend_likeliest"]
    assert told["blend_gain"]["mean"] == pytest.approx(told["blend_curve"]["1.00"] - told["blend_curve"]["0.00"])
    loaded = load(tmp_path / "out", tiny.DATA.catalog)
    alone, blended = (
        loaded.ranker.rank([History((1, 2))], [[Candidate(3, 9.0), Candidate(4, score)]])[0].candidates
        for score in (0.0, 99.0)
    )
    assert alone == blended, "the retriever has no say"


GROWN = tiny.cycle(users=30, length=8, items=tiny.ITEMS + 3)


def test_what_knows_titles_alone_is_fitted_to_a_catalogue_that_has_grown(bpe_folder: Path, tmp_path: Path) -> None:
    before = tiny.trained(tmp_path / "out", bpe_folder)
    after = refit(GROWN, tiny.Neighbours(tiny.ITEMS + 3), "neighbours@2", tmp_path / "out", "cpu")
    assert after.files == before.files
    loaded = load(tmp_path / "out", GROWN.catalog)
    loaded.self_test()
    [ranking] = loaded.ranker.rank([History((1, 2))], [[Candidate(tiny.ITEMS + 3, 1.0), Candidate(4, 0.5)]])
    assert {one.item for one in ranking.candidates} == {tiny.ITEMS + 3, 4}
    with pytest.raises(CatalogMismatch):
        load(tmp_path / "out", tiny.DATA.catalog)


def test_what_knows_items_is_refused_and_left_as_it_was(bpe_folder: Path, tmp_path: Path) -> None:
    tiny.trained(tmp_path / "out", bpe_folder)
    manifest = Manifest.model_validate_json((tmp_path / "out" / MANIFEST).read_bytes())
    seal(tmp_path / "out", manifest.model_copy(update={"method": "collm"}))
    kept = (tmp_path / "out" / MANIFEST).read_bytes()
    with pytest.raises(CatalogMismatch, match="out"):
        refit(GROWN, tiny.Neighbours(tiny.ITEMS + 3), "neighbours@2", tmp_path / "out", "cpu")
    assert (tmp_path / "out" / MANIFEST).read_bytes() == kept
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".out")] == []
