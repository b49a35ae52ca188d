"""The report of `tandem bench rank`, on a tiny Llama."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ranker import backbone
from services.bench.floor import Shape, products
from services.bench.plots import rank as draw
from services.bench.rank import Settings, others, run
from tests.ranker import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny.bpe(tiny.corpus())
    return tiny.save(tmp_path_factory.mktemp("backbone") / "tiny", tokenizer, tiny.llama(len(tokenizer)))


def test_operations_are_those_of_a_hand_worked_llama() -> None:
    shape = Shape(layers=2, hidden=8, heads=4, kv_heads=2, head=2, inner=10)
    assert shape.products == ((8, 16), (8, 8), (8, 20), (10, 8))
    per_token = 2 * 2 * (8 * 16 + 8 * 8 + 8 * 20 + 10 * 8)
    assert shape.linear_flop(3) == 3 * per_token
    # Two causal products of 4 heads of width 2 over half of 3 x 3 places, in 2 layers.
    assert shape.flop([3]) == 3 * per_token + 2 * 2 * 2 * 4 * 2 * 9 / 2
    assert shape.flop([3, 3]) == 2 * shape.flop([3])


def test_a_shape_is_read_from_the_models_config(folder: Path) -> None:
    model = backbone.load(str(folder), dtype=torch.float32).model
    shape = Shape.of(model.config)
    linear = sum(p.numel() for n, p in model.model.layers.named_parameters() if "proj" in n)
    assert shape.linear_flop(1) == 2 * linear
    products(shape, 4, torch.float32, torch.device("cpu"), packed=False)()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_report_holds_every_comparison(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "best_dtype", lambda device: torch.float32)
    settings = Settings(backbone=str(folder), tokens=40, batches=(1, 2), seconds=0.01, compile=False)
    report = run(settings)
    assert [one["batch"] for one in report["engines"]] == [1, 2]
    for one in report["engines"]:
        assert {"plain products", "local", "transformers float32"} <= set(one["ms"])
        assert one["floor_ms"] > one["ms"]["plain products"]["p50"]
    assert [row["title"] for row in report["titles"]] == [5, 10, 20, 40, 60]
    assert [row["candidates"] for row in report["candidates"]] == [5, 10, 15, 20]
    assert report["titles"][-1]["tokens"] == 30 + 30 * 60
    assert [user["known"] + user["new"] for user in report["reuse"]["user"]] == [600, 600, 600]
    assert all(user["over_share"] > 0 for user in report["reuse"]["user"])
    assert report["reuse"]["branches"]["over_one"] > 0
    assert report["reuse"]["recllm"]["ms"]["cached vector"]["p50"] > 0
    draw(json.loads(json.dumps(report)), tmp_path / "rank.png")
    assert (tmp_path / "rank.png").stat().st_size > 1000


def test_rows_of_other_environments_are_told_in_this_runs_floor(tmp_path: Path) -> None:
    row = {"engine": "openvino", "precision": "bf16", "batch": 1, "ratio": 0.5}
    (tmp_path / "ov.json").write_text(json.dumps({"rows": [row, row | {"batch": 8}]}))
    engines = [{"batch": 1, "ms": {"transformers bfloat16": {"over_floor": 1.8}}}]
    one, eight = others([tmp_path / "ov.json"], engines)
    assert one["over_floor"] == pytest.approx(0.9)
    assert eight["over_floor"] is None
