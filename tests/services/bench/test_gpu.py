"""The GPU script on the CPU, at a tiny shape."""

from __future__ import annotations

import argparse

import torch

from services.bench import gpu


def test_each_length_and_batch_has_a_row() -> None:
    args = argparse.Namespace(tokens=[20, 40], batch=[1, 3], seconds=0.01)
    rows = gpu.rows("tiny", args, torch.device("cpu"), fp8=False)
    assert [(row["tokens"], row["batch"]) for row in rows] == [(20, 1), (20, 3), (40, 1), (40, 3)]
    for row in rows:
        assert row["weights"] == "random"
        assert row["p99_ms"] >= row["p50_ms"] > 0
        assert 0 < row["of_matrix_rate"] < 1.5


def test_fp8_weights_are_the_weights_but_for_rounding() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 48, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    rounded = gpu.Fp8Linear(plain)
    back = rounded.weight_OI.float() * rounded.scale_1O.T
    assert float((back - plain.weight.float()).norm() / plain.weight.float().norm()) < 0.04
