from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from ranker import weights
from ranker.weights import SCALE, Precision


def module() -> torch.nn.Module:
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 4))
    made.register_buffer("known", torch.arange(50) > 3)
    return made


@given(st.integers(1, 9), st.integers(1, 40), st.floats(1e-6, 1e3), st.integers(0, 99))
def test_a_row_of_int8_is_off_by_half_a_step_at_most(rows: int, width: int, size: float, seed: int) -> None:
    matrix = size * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    again = weights.restored(weights.stored({"x": matrix}, "int8"))["x"]
    step_R = matrix.abs().amax(1) / weights.LARGEST
    assert ((again - matrix).abs() <= 0.5001 * step_R[:, None] + 1e-12).all()


def test_a_row_of_zeros_stays_zero() -> None:
    assert not weights.restored(weights.stored({"x": torch.zeros(2, 3)}, "int8"))["x"].any()


@pytest.mark.parametrize(("precision", "share"), [("float32", 1.0), ("float16", 0.5), ("int8", 0.2535)])
def test_the_file_is_as_small_as_its_precision(precision: Precision, share: float, tmp_path: Path) -> None:
    weights.save({"x": torch.randn(200, 300)}, tmp_path / "x", precision)
    assert (tmp_path / "x").stat().st_size == pytest.approx(share * 200 * 300 * 4, rel=0.02)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_what_was_settled_is_what_loads(precision: Precision, tmp_path: Path) -> None:
    """Also for a tensor whose name ends as a scale's does, and for what is no number."""
    made = module()
    made.register_buffer("scale", torch.tensor(3.5))
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    weights.settle(made, precision)
    weights.save(made.state_dict(), tmp_path / "x", precision)
    again = weights.load(tmp_path / "x")
    assert again.keys() == before.keys()
    for name, tensor in made.state_dict().items():
        torch.testing.assert_close(again[name], tensor, rtol=1e-6, atol=1e-9)
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0.02)
        else:
            assert torch.equal(tensor, before[name])
    changed = any(not torch.equal(before[name], t) for name, t in made.state_dict().items())
    assert changed is (precision != "float32")


def test_a_scale_belongs_to_an_int8_matrix_alone(tmp_path: Path) -> None:
    both = {"x" + SCALE: torch.ones(3), "x": torch.ones(3)}
    weights.save(both, tmp_path / "vectors", "int8")
    assert set(weights.load(tmp_path / "vectors")) == set(both)
    weights.save({"y": torch.ones(3, 3)}, tmp_path / "matrix", "int8")
    assert set(load_file(tmp_path / "matrix")) == {"y", "y" + SCALE}
    assert set(weights.load(tmp_path / "matrix")) == {"y"}
