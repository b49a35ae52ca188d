"""What ships: small, whole, and an order of its own for every ranker."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranker.backbone import Pool
from ranker.registry import SHIPPED, load
from services.cli import main
from shared.artifact import open_artifact
from shared.candidate import Candidate
from shared.data import prepared
from shared.history import History

METHODS = {"llamarec": "llamarec", "collm": "collm", "llara": "llara", "recllm": "cllm4rec"}
MEGABYTES = 5_000_000


def folder(name: str) -> Path:
    return SHIPPED / f"{name}-ml-100k"


def test_the_four_are_whole_and_for_one_catalogue() -> None:
    manifests = {name: open_artifact(folder(name), "ranker", methods=(method,)) for name, method in METHODS.items()}
    assert len({manifest.catalog_fingerprint for manifest in manifests.values()}) == 1
    assert len({manifest.config["backbone"] for manifest in manifests.values()}) == 1
    assert {path.name for path in SHIPPED.iterdir()} == {folder(name).name for name in METHODS}


def test_all_that_ships_is_at_most_5_megabytes() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) <= MEGABYTES


@pytest.mark.real
def test_the_four_answer_over_one_backbone_each_with_its_own_order(tmp_path: Path) -> None:
    assert main(["data", "prepare", "--dataset", "ml-100k", "--out", str(tmp_path / "data")]) == 0
    data, pool = prepared.load(tmp_path / "data"), Pool("cpu")
    given = [Candidate(item, float(-place)) for place, item in enumerate(range(40, 60))]
    orders, held = {}, set()
    for name in METHODS:
        loaded = load(folder(name), data.catalog, device="cpu", pool=pool)
        loaded.self_test()
        ranker = loaded.ranker
        ranker.weight = 1.0  # type: ignore[attr-defined]
        [ranking] = ranker.rank([data.history("1")], [given])
        orders[name] = tuple(c.item for c in ranking.candidates)
        assert sorted(orders[name]) == sorted(c.item for c in given)
        base = ranker.engine.backbone if hasattr(ranker, "engine") else ranker.scorer.model.base  # type: ignore[attr-defined]
        held.add(base.model.get_input_embeddings().weight.data_ptr())
        assert loaded.ranker.rank([History(())], [given])[0].candidates
    assert len(set(orders.values())) == len(METHODS)
    assert len(held) == 1
