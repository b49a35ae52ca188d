"""LRURec against its equations written out one number at a time, and what padding and steps must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.lrurec import LRU, FeedForward, LRURec, LRURecConfig
from retriever.train import loss_of
from shared.catalog import PAD

CONFIG = LRURecConfig(items=30, width=8, state=6, blocks=2, dropout=0.3, attention_dropout=0.3)
HISTORIES = st.lists(st.integers(1, CONFIG.items), min_size=1, max_size=40)
seeded = settings(derandomize=True, deadline=None, max_examples=40)


def model(seed: int = 0, spread: float = 0.5) -> LRURec:
    """In eval mode; larger weights than at the start of training, so that every part of it matters."""
    torch.manual_seed(seed)
    made = LRURec(CONFIG)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "_log_" not in name:
                parameter.add_(spread * torch.randn_like(parameter))
        made.embedding.weight[PAD].zero_()
    return made.eval()


def as_float64(parameter: torch.Tensor) -> np.ndarray:
    return parameter.detach().double().numpy()


def norm(x_D: np.ndarray, layer: torch.nn.LayerNorm) -> np.ndarray:
    scaled = (x_D - x_D.mean()) / math.sqrt(x_D.var() + layer.eps)
    return scaled * as_float64(layer.weight) + as_float64(layer.bias)


def affine(x_D: np.ndarray, layer: torch.nn.Linear) -> np.ndarray:
    return as_float64(layer.weight) @ x_D + as_float64(layer.bias)


def recur(xs: list[np.ndarray], lru: LRU) -> list[np.ndarray]:
    """Equations 3 and 4 of the paper."""
    radius_H = np.exp(-np.exp(as_float64(lru.nu_log_H)))
    lambda_H = radius_H * np.exp(1j * np.exp(as_float64(lru.theta_log_H)))
    gamma_H = np.exp(as_float64(lru.gamma_log_H))
    h_H, ys = np.zeros(CONFIG.state, dtype=np.complex128), []
    for x_D in xs:
        real_and_imaginary = affine(x_D, lru.into)
        u_H = gamma_H * (real_and_imaginary[0::2] + 1j * real_and_imaginary[1::2])
        h_H = lambda_H * h_H + u_H
        ys.append(norm(affine(np.stack([h_H.real, h_H.imag], -1).ravel(), lru.out) + x_D, lru.norm))
    return ys


def feed(x_D: np.ndarray, layer: FeedForward) -> np.ndarray:
    gelu = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in affine(x_D, layer.up)])
    return norm(affine(gelu, layer.down) + x_D, layer.norm)


def plain(made: LRURec, history: list[int]) -> list[np.ndarray]:
    xs = [norm(as_float64(made.embedding.weight)[item], made.norm) for item in history]
    for lru, feed_forward in zip(made.recurrences, made.feed_forwards, strict=True):
        xs = [feed(x_D, feed_forward) for x_D in recur(xs, lru)]  # type: ignore[arg-type]
    return xs


@given(HISTORIES)
@seeded
def test_encoding_equals_the_equations_in_a_plain_loop(history: list[int]) -> None:
    made = model()
    with torch.no_grad():
        hidden_LD = made.encode(torch.tensor([history]))
    np.testing.assert_allclose(hidden_LD.numpy(), np.stack(plain(made, history)), atol=1e-4)


@given(HISTORIES, st.integers(0, 300))
@seeded
def test_left_padding_of_any_length_changes_nothing(history: list[int], padding: int) -> None:
    made = model()
    with torch.no_grad():
        bare_LD = made.encode(torch.tensor([history]))
        padded_LD = made.encode(torch.tensor([[PAD] * padding + history]))
    torch.testing.assert_close(padded_LD, bare_LD, atol=1e-5, rtol=0)


@given(st.lists(HISTORIES, min_size=1, max_size=5))
@seeded
def test_a_batch_equals_its_singles(histories: list[list[int]]) -> None:
    made = model()
    longest = max(map(len, histories))
    with torch.no_grad():
        batch = torch.tensor([[PAD] * (longest - len(h)) + h for h in histories])
        batch_RD, last_BD = made.encode(batch), made.last(batch)
        singles = [made.encode(torch.tensor([h])) for h in histories]
    torch.testing.assert_close(batch_RD, torch.cat(singles), atol=1e-5, rtol=0)
    batch_BD, singles_BD = last_BD, torch.stack([hidden_LD[-1] for hidden_LD in singles])
    torch.testing.assert_close(batch_BD, singles_BD, atol=1e-5, rtol=0)


@given(HISTORIES)
@seeded
def test_one_step_per_item_ends_where_the_full_encoding_ends(history: list[int]) -> None:
    made = model()
    with torch.no_grad():
        state, hidden_LD = made.initial_state(1), made.encode(torch.tensor([history]))
        for place, item in enumerate(history):
            state, hidden_BD = made.step(state, torch.tensor([item]))
            torch.testing.assert_close(hidden_BD[0], hidden_LD[place], atol=1e-5, rtol=0)


def test_a_user_without_items_has_no_direction() -> None:
    with torch.no_grad():
        last_BD = model().last(torch.tensor([[PAD, PAD], [PAD, 3], [PAD, PAD]]))
    assert not last_BD[[0, 2]].any()
    assert last_BD[1].any()


def test_the_future_does_not_reach_the_past() -> None:
    made = model()
    with torch.no_grad():
        one, other = (made.encode(torch.tensor([[4, 9, last]])) for last in (2, 7))
    assert torch.equal(one[:2], other[:2])
    assert not torch.allclose(one[2], other[2])


def test_the_recurrence_cannot_blow_up_whatever_its_parameters() -> None:
    lru = LRU(CONFIG)
    with torch.no_grad():
        lru.nu_log_H.copy_(torch.linspace(-10, 10, CONFIG.state))
        lru.theta_log_H.copy_(torch.linspace(-10, 5, CONFIG.state))
    assert (lru.lambda_H.abs() <= 1).all()


def test_lambda_starts_on_the_ring_and_gamma_normalizes_it() -> None:
    torch.manual_seed(0)
    lru = LRU(LRURecConfig(items=1, state=2000))
    radius_H = lru.lambda_H.abs().detach()
    assert 0.8 <= float(radius_H.min()) < 0.81
    assert 0.98 < float(radius_H.max()) <= 0.99
    gamma_H = torch.exp(lru.gamma_log_H).detach()
    torch.testing.assert_close(gamma_H, torch.sqrt(1 - radius_H**2), atol=1e-5, rtol=0)


def test_weights_start_small_truncated_and_without_bias() -> None:
    torch.manual_seed(0)
    fresh = LRURec(CONFIG)
    matrices = [p for n, p in fresh.named_parameters() if n.endswith("weight") and p.ndim == 2]
    assert matrices
    assert all((w.abs() <= 0.04).all() for w in matrices)
    assert not any(p.any() for n, p in fresh.named_parameters() if n.endswith("bias"))
    assert not fresh.embedding.weight[PAD].any()


def plain_loss(made: LRURec, batch: list[list[int]]) -> float:
    """The mean over all real positions of -log p(next item), items 1..n alone, one position at a time."""
    table, bias = as_float64(made.embedding.weight), as_float64(made.bias_V)
    losses = []
    for row in batch:
        real = [item for item in row if item != PAD]
        for hidden_D, target in zip(plain(made, real[:-1]), real[1:], strict=True):
            logits = [float(hidden_D @ table[item] + bias[item]) for item in range(1, CONFIG.items + 1)]
            top = max(logits)
            losses.append(top + math.log(sum(math.exp(x - top) for x in logits)) - logits[target - 1])
    return sum(losses) / len(losses)


@given(st.lists(st.lists(st.integers(1, CONFIG.items), min_size=2, max_size=9), min_size=1, max_size=4))
@settings(seeded, max_examples=20)
def test_the_loss_equals_a_plain_cross_entropy_over_the_real_positions(rows: list[list[int]]) -> None:
    longest = max(map(len, rows))
    batch = [[PAD] * (longest - len(row)) + row for row in rows]
    made = model()
    assert float(loss_of(made, torch.tensor(batch)).detach()) == pytest.approx(plain_loss(made, batch), abs=1e-4)


def test_the_padding_item_has_no_part_in_the_loss_and_gets_no_gradient() -> None:
    made = model()
    batch = torch.tensor([[PAD, 3, 4, 5], [6, 7, 8, 9]])
    before = float(loss_of(made, batch).detach())
    with torch.no_grad():
        made.bias_V[PAD] = 100.0
    loss = loss_of(made, batch)
    loss.backward()
    assert float(loss.detach()) == before
    assert not made.embedding.weight.grad[PAD].any()  # type: ignore[index]
    assert not made.bias_V.grad[PAD].any()  # type: ignore[index]
