"""A retriever trained anew gets a blend of its own; the language model's part stays to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ranker.fit import ADAPTER
from ranker.refit import refit
from ranker.registry import load
from shared.candidate import Candidate
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
