"""Rankers side by side, over the tiny backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ranker import backbone
from ranker.registry import load
from services.commands.orders import Column, columns, said, table
from shared.candidate import Candidate
from shared.history import History
from tests.ranker import tiny
from tests.ranker.cllm4rec import made as cllm4rec

DATA = tiny.DATA
CANDIDATES = [Candidate(item, float(30 - item)) for item in range(11, 16)]


def answer(items: list[int]) -> dict[str, Any]:
    return {"items": [{"item_id": DATA.catalog[i].id, "rank": rank} for rank, i in enumerate(items, start=1)]}


def own(items: list[int]) -> dict[str, int]:
    return {DATA.catalog[i].id: place for place, i in enumerate(items, start=1)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("orders")
    tokenizer = tiny.bpe(tiny.corpus())
    folder = tiny.save(out / "tiny", tokenizer, tiny.llama(len(tokenizer)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        tiny.trained(out / "llamarec", folder)
        cllm4rec.trained(out / "recllm", folder, content_first=8, pretrain=8, tune=8)
    return [out / "llamarec", out / "recllm"]


def test_each_line_has_the_place_as_served_and_the_language_models_own() -> None:
    rankers = [Column("collm", 0.3, {}, own([13, 11, 12])), Column("llara", 0.0, {}, own([12, 13, 11]))]
    ranked = {"collm": answer([11, 13, 12]), "llara": answer([11, 12, 13])}
    lines = [line.split() for line in table(DATA, answer([11, 12, 13]), ranked, rankers)]
    assert lines[0] == ["retrieved", "collm", "llara"]
    assert [line[-4:] for line in lines[1:]] == [
        ["1", "(2)", "1", "(3)"],
        ["3", "(3)", "2", "(1)"],
        ["2", "(1)", "3", "(2)"],
    ]


def test_a_blend_of_0_is_said_in_words_and_another_with_what_it_gained() -> None:
    gain = {"mean": 0.004, "low": -0.001, "high": 0.01}
    lines = said([Column("llara", 0.0, gain, {}), Column("recllm", 0.25, gain, {})])
    assert "added nothing to the retriever" in lines[0]
    assert "blend 0.25, +0.0040 NDCG@10 on validation users, 95 % -0.0010 to +0.0100" in lines[1]


def test_the_own_order_is_that_of_a_blend_of_1(folders: list[Path]) -> None:
    history = History((1, 2, 3), "u1")
    found = columns(folders, DATA, history, CANDIDATES, device="cpu")
    assert [column.name for column in found] == ["llamarec", "recllm"]
    for column, folder in zip(found, folders, strict=True):
        loaded = load(folder, DATA.catalog, device="cpu")
        assert column.blend == loaded.manifest.extra["blend"]
        loaded.ranker.weight = 1.0  # type: ignore[attr-defined]
        [ranking] = loaded.ranker.rank([history], [CANDIDATES])
        assert list(column.own) == [DATA.catalog[c.item].id for c in ranking.candidates]
