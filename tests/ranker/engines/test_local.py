"""The engine against a plain transformers forward over the same ids, one prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ranker.backbone import Backbone
from ranker.engines.local import LocalEngine, batches, pad_right

LABELS = [40, 7, 300, 41, 12]
PROMPTS = st.lists(st.lists(st.integers(4, 400), min_size=1, max_size=60), min_size=1, max_size=6)
seeded = settings(
    derandomize=True, deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def plain(base: Backbone, prompt: Sequence[int]) -> torch.Tensor:
    """Logits of the whole vocabulary after the last token, as any user of transformers would ask for them."""
    with torch.no_grad():
        return base.model(torch.tensor([list(prompt)])).logits[0, -1]


@given(PROMPTS)
@seeded
def test_label_logits_equal_a_plain_forward(bpe: Backbone, prompts: list[list[int]]) -> None:
    scores = LocalEngine(bpe).label_logits(prompts, LABELS)
    for prompt, logits_K, mass in zip(prompts, scores.logits_BK, scores.mass_B, strict=True):
        logits_V = plain(bpe, prompt)
        np.testing.assert_allclose(logits_K, logits_V[LABELS].numpy(), atol=1e-4)
        assert mass == pytest.approx(float(torch.softmax(logits_V.double(), 0)[LABELS].sum()), abs=1e-5)


@given(PROMPTS)
@seeded
def test_a_batch_of_mixed_lengths_equals_its_singles(bpe: Backbone, prompts: list[list[int]]) -> None:
    engine = LocalEngine(bpe)
    batch = engine.label_logits(prompts, LABELS)
    singles = [engine.label_logits([prompt], LABELS) for prompt in prompts]
    np.testing.assert_allclose(batch.logits_BK, np.concatenate([s.logits_BK for s in singles]), atol=2e-5)
    np.testing.assert_allclose(batch.mass_B, np.concatenate([s.mass_B for s in singles]), atol=1e-5)


def test_more_prompts_than_one_forward_holds_keep_their_order(bpe: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(4, 400, size=length).tolist() for length in rng.integers(1, 50, size=30)]
    engine = LocalEngine(bpe)
    at_once = engine.label_logits(prompts, LABELS)
    monkeypatch.setattr("ranker.engines.local.BATCH_TOKENS", 64)
    np.testing.assert_allclose(engine.label_logits(prompts, LABELS).logits_BK, at_once.logits_BK, atol=2e-5)


def test_the_mass_of_the_whole_vocabulary_is_one(bpe: Backbone) -> None:
    everything = list(range(len(bpe.tokenizer)))
    assert LocalEngine(bpe).label_logits([[5, 6, 7]], everything).mass_B[0] == pytest.approx(1, abs=1e-5)


def test_no_prompts_give_no_answers(bpe: Backbone) -> None:
    scores = LocalEngine(bpe).label_logits([], LABELS)
    assert (scores.logits_BK.shape, scores.mass_B.shape) == ((0, len(LABELS)), (0,))


def test_answers_are_float32_and_carry_no_gradient(bpe: Backbone) -> None:
    scores = LocalEngine(bpe).label_logits([[5, 6]], LABELS)
    assert (scores.logits_BK.dtype, scores.mass_B.dtype) == (np.float32, np.float32)
    assert not any(parameter.requires_grad for parameter in bpe.model.parameters())


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 900))
@seeded
def test_every_row_is_in_one_batch_and_a_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = list(batches(lengths, budget))
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= budget


@given(PROMPTS)
@seeded
def test_padding_goes_to_the_right(prompts: list[list[int]]) -> None:
    ids_BT, lengths_B = pad_right(prompts)
    assert ids_BT.shape == (len(prompts), max(map(len, prompts)))
    for row, length, prompt in zip(ids_BT.tolist(), lengths_B.tolist(), prompts, strict=True):
        assert row == prompt + [0] * (len(row) - length)
