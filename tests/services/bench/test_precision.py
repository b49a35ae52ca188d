"""The gate of a precision, on a ranker trained for a moment."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ranker import backbone
from retriever.popularity import Popularity
from services.bench.precision import Gate, gate
from tests.ranker import tiny


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("precision")
    tokenizer = tiny.bpe(tiny.corpus())
    tiny.save(folder / "backbone", tokenizer, tiny.llama(len(tokenizer)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        tiny.trained(folder / "out", folder / "backbone")
    return folder / "out"


def retriever() -> SimpleNamespace:
    neighbours = tiny.Neighbours(tiny.ITEMS)
    neighbours.window = 50  # type: ignore[attr-defined]
    return SimpleNamespace(retriever=neighbours, popularity=Popularity(np.ones(tiny.ITEMS + 1, dtype=np.float32)))


def test_float32_beside_itself_loses_nothing(artifact: Path) -> None:
    found = gate(tiny.DATA, retriever(), artifact, torch.float32, device="cpu")
    assert found.users > 0
    assert (found.exact, found.tau, found.passes) == (found.rounded, pytest.approx(1.0), True)
    assert found.logit == 0.0


def test_bfloat16_orders_nearly_alike(artifact: Path) -> None:
    found = gate(tiny.DATA, retriever(), artifact, torch.bfloat16, users=10, device="cpu")
    assert found.tau > 0.8
    assert 0 < found.logit < 1


@pytest.mark.parametrize(("rounded", "passes"), [(0.5, True), (0.4976, True), (0.4974, False), (0.6, True)])
def test_half_a_per_cent_is_the_bound(rounded: float, passes: bool) -> None:
    assert Gate(10, 0.5, rounded, 1.0, 0.0).passes is passes
