"""Branches of a shared prefix score as whole prompts do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ranker.backbone import Backbone
from ranker.engines.soft import alike, branch_log_likelihoods, branch_states, last_states
from ranker.packed import Group, branch_ends, branch_starts, pack


def soft(base: Backbone) -> torch.Tensor:
    return torch.randn(50, base.model.config.hidden_size, generator=torch.Generator().manual_seed(3))


def groups(base: Backbone) -> list[Group]:
    """Twenty branches of differing lengths under one prefix, three under a longer one; soft tokens in all."""
    rng = np.random.default_rng(0)
    V = base.model.config.vocab_size

    def piece(low: int, high: int) -> list[int]:
        return [int(t) for t in rng.integers(0, V + 50, size=rng.integers(low, high))]

    return [
        Group(piece(9, 10), [piece(1, 8) for _ in range(20)]),
        Group(piece(30, 40), [piece(2, 5) for _ in range(3)]),
    ]


@torch.no_grad()
def test_a_packed_sequence_equals_twenty_whole_prompts(bpe: Backbone) -> None:
    soft_SD, asked = soft(bpe), groups(bpe)
    packed = branch_states(bpe, asked, lambda s: soft_SD[s])
    for group, states_CD in zip(asked, packed, strict=True):
        for branch, state_D in zip(group.branches, states_CD, strict=True):
            whole_D = last_states(bpe, [group.prefix + branch], lambda s: soft_SD[s])[0]
            assert float((whole_D - state_D).abs().max()) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_plain_attention_sees_what_the_mask_shows(bpe: Backbone, attention: str) -> None:
    soft_SD, asked, before = soft(bpe), groups(bpe), bpe.model.config._attn_implementation
    bpe.model.set_attn_implementation(attention)
    try:
        packed = branch_states(bpe, asked, lambda s: soft_SD[s])
        whole = [last_states(bpe, [g.prefix + b for b in g.branches], lambda s: soft_SD[s]) for g in asked]
    finally:
        bpe.model.set_attn_implementation(before)
    for states_CD, whole_CD in zip(packed, whole, strict=True):
        assert float((states_CD - whole_CD).abs().max()) < 1e-4


def test_rows_of_like_lengths_go_together_on_a_cpu_and_all_at_once_elsewhere() -> None:
    lengths = [100, 20, 110, 21, 5, 112, 300]
    parts = list(alike(lengths, torch.device("cpu")))
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    assert parts == [[4], [1, 3], [0, 2, 5], [6]]
    assert [sorted(part) for part in alike(lengths, torch.device("meta"))] == [list(range(len(lengths)))]
    assert list(alike([], torch.device("cpu"))) == []


@torch.no_grad()
def test_a_branchs_likelihood_is_the_product_of_its_tokens_probabilities(bpe: Backbone) -> None:
    soft_SD = soft(bpe)
    V = bpe.model.config.vocab_size
    prefix = [3, V + 1, 9, V + 30, 4]
    asked = Group(prefix, [[5, 6, 7], [5], [8, 2, 2, 9]])
    [told_C] = branch_log_likelihoods(bpe, [asked], lambda s: soft_SD[s])
    for branch, told in zip(asked.branches, told_C.tolist(), strict=True):
        total = 0.0
        for n, token in enumerate(branch):
            state_D = last_states(bpe, [prefix + branch[:n]], lambda s: soft_SD[s])[0]
            total += float(torch.log_softmax(bpe.model.lm_head(state_D).double(), -1)[token])
        assert told == pytest.approx(total, abs=1e-4)


@torch.no_grad()
def test_one_branch_never_sees_another(bpe: Backbone) -> None:
    one, other = Group([1, 2], [[3, 4], [5]]), Group([1, 2], [[3, 4], [9, 9, 9]])
    [before_CD], [after_CD] = (branch_states(bpe, [g], lambda s: s) for g in (one, other))
    assert torch.allclose(before_CD[0], after_CD[0], atol=1e-6)


def test_positions_start_again_after_the_prefix() -> None:
    packed = pack([Group([7, 7], [[1, 2], [3]]), Group([7], [[4]])])
    assert packed.ids_BT.tolist() == [[7, 7, 1, 2, 3], [7, 4, 0, 0, 0]]
    assert packed.positions_BT.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    assert packed.mask_B1TT[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert packed.mask_B1TT[1, 0].any(-1).all()


def test_places_of_branches() -> None:
    group = Group([1, 2, 3], [[4], [5, 6]])
    assert (branch_starts(group), branch_ends(group), len(group)) == ([3, 4], [3, 5], 6)
