"""Both ways of the scan, and its hand-written gradient, against a plain loop in complex128."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retriever.scan import doubling, loop, scan

Scan = Callable[[Tensor, Tensor], Tensor]
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 5))
seeded = settings(derandomize=True, deadline=None, max_examples=40)
every_way = pytest.mark.parametrize("way", [loop, doubling, scan])


def draw(shape: tuple[int, int, int], seed: int, dtype: torch.dtype = torch.complex128) -> tuple[Tensor, Tensor]:
    """u, and lambda on the ring where training starts it."""
    generator = torch.Generator().manual_seed(seed)
    u_BLH = torch.randn(shape, dtype=torch.complex128, generator=generator)
    radius_H = 0.8 + 0.19 * torch.rand(shape[2], dtype=torch.float64, generator=generator)
    phase_H = 2 * torch.pi * torch.rand(shape[2], dtype=torch.float64, generator=generator)
    return u_BLH.to(dtype), torch.polar(radius_H, phase_H).to(dtype)


def plain(u_BLH: Tensor, lambda_H: Tensor) -> np.ndarray:
    """One number at a time, in Python's own complex numbers."""
    states = np.zeros(u_BLH.shape, dtype=np.complex128)
    for b, h in np.ndindex(u_BLH.shape[0], u_BLH.shape[2]):
        state = 0j
        for t in range(u_BLH.shape[1]):
            state = complex(lambda_H[h]) * state + complex(u_BLH[b, t, h])
            states[b, t, h] = state
    return states


@every_way
@given(SHAPES, st.integers(0, 10_000))
@seeded
def test_the_scan_equals_a_plain_loop(way: Scan, shape: tuple[int, int, int], seed: int) -> None:
    u_BLH, lambda_H = draw(shape, seed)
    np.testing.assert_allclose(way(u_BLH, lambda_H).numpy(), plain(u_BLH, lambda_H), atol=1e-11)


@every_way
def test_single_precision_stays_near_the_plain_loop_over_a_long_history(way: Scan) -> None:
    u_BLH, lambda_H = draw((2, 500, 3), 5, torch.complex64)
    np.testing.assert_allclose(way(u_BLH, lambda_H).numpy(), plain(u_BLH, lambda_H), atol=1e-4)


@given(st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 2)), st.integers(0, 10_000))
@settings(seeded, max_examples=10)
def test_the_gradient_is_that_of_finite_differences(shape: tuple[int, int, int], seed: int) -> None:
    u_BLH, lambda_H = draw(shape, seed)
    assert torch.autograd.gradcheck(scan, (u_BLH.requires_grad_(), lambda_H.requires_grad_()))


@every_way
def test_every_way_has_the_gradient_that_autograd_finds(way: Scan) -> None:
    """The doubling is made of plain operations, so that autograd differentiates it by itself."""
    u_BLH, lambda_H = draw((2, 33, 4), 3)
    weight_BLH, _ = draw((2, 33, 4), 4)
    found = []
    for run in (doubling, way if way is not loop else scan):
        inputs = u_BLH.clone().requires_grad_(), lambda_H.clone().requires_grad_()
        found.append(torch.autograd.grad((run(*inputs) * weight_BLH).real.sum(), inputs))
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected)


@every_way
def test_zeros_on_the_left_leave_the_state_at_exactly_zero(way: Scan) -> None:
    u_BLH, lambda_H = draw((1, 20, 4), 7, torch.complex64)
    padded_BLH = torch.cat([torch.zeros(1, 13, 4, dtype=torch.complex64), u_BLH], dim=1)
    assert not way(padded_BLH, lambda_H)[:, :13].abs().any()
    torch.testing.assert_close(way(padded_BLH, lambda_H)[:, 13:], way(u_BLH, lambda_H))
