"""Soft tokens land exactly at their placeholders, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ranker.splice import nothing, splice

V, D = 11, 5
TABLE = nn.Embedding(V, D)
SOFT = torch.randn(7, D, generator=torch.Generator().manual_seed(1))


@given(st.lists(st.lists(st.integers(0, V + 6), min_size=4, max_size=4), min_size=1, max_size=5))
def test_each_place_holds_its_own_vector(rows: list[list[int]]) -> None:
    ids_BT = torch.tensor(rows)
    embeds_BTD = splice(TABLE, ids_BT, lambda slots_S: SOFT[slots_S])
    for b, row in enumerate(rows):
        for t, token in enumerate(row):
            expected_D = TABLE.weight[token] if token < V else SOFT[token - V]
            assert torch.equal(embeds_BTD[b, t], expected_D)


def test_each_slot_is_asked_for_once() -> None:
    asked: list[list[int]] = []

    def fill(slots_S: torch.Tensor) -> torch.Tensor:
        asked.append(slots_S.tolist())
        return SOFT[slots_S]

    splice(TABLE, torch.tensor([[V + 3, 1, V + 3], [V, 2, V + 3]]), fill)
    assert asked == [[0, 3]]


def test_gradients_reach_the_slots_that_were_used_and_no_other() -> None:
    soft_SD = SOFT.clone().requires_grad_()
    splice(TABLE, torch.tensor([[V + 2, 1, V + 2, V + 4]]), lambda s: soft_SD[s]).sum().backward()
    assert soft_SD.grad is not None
    assert soft_SD.grad.sum(1).tolist() == [0, 0, 2 * D, 0, D, 0, 0]


def test_text_alone_asks_for_nothing() -> None:
    ids_BT = torch.tensor([[1, 2, 3]])
    assert torch.equal(splice(TABLE, ids_BT, nothing), TABLE(ids_BT))
    with pytest.raises(AssertionError, match="holds slots"):
        splice(TABLE, torch.tensor([[V]]), nothing)
