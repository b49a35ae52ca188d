"""The likeness of titles: a cosine by hand, and the prompts that teach it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from ranker.backbone import Backbone
from ranker.evaluate import Questions
from ranker.llamarec.batches import examples, prefixes
from ranker.llamarec.likeness import Likeness, opinion
from ranker.llamarec.model import LlamaRecConfig
from ranker.prompt import PromptBuilder
from shared.errors import BadArtifact, BadInput
from tests.ranker import tiny

ITEMS = 60
TITLES = [[], [1, 2], [1, 3, 3], [4], [2, 4]]


def test_likeness_is_the_mean_cosine_of_tokens_rare_ones_first() -> None:
    """By hand: of 5 titles token 1 stands in 2, 2 in 2, 3 in 1, 4 in 2."""
    common, rare = math.log(5 / 2), math.log(5)
    first, second = common / math.sqrt(2 * common**2), common / math.sqrt(common**2 + rare**2)
    found = Likeness(TITLES).of([1, 4], [1, 2, 3])
    assert found == pytest.approx([(1 + 0.5) / 2, first * second / 2, (0 + math.sqrt(0.5)) / 2])


@given(st.lists(st.lists(st.integers(0, 30), max_size=6), min_size=2, max_size=12), st.data())
def test_likeness_is_between_0_and_1_and_1_for_the_same_title(titles: list[list[int]], data: st.DataObject) -> None:
    titles = [[], *titles]
    some = st.lists(st.integers(1, len(titles) - 1), min_size=1, max_size=5)
    history, candidates = data.draw(some), data.draw(some)
    likeness = Likeness(titles)
    found = likeness.of(history, candidates)
    assert ((found >= 0) & (found <= 1 + 1e-6)).all()
    told = {token for title in titles for token in title if sum(token in one for one in titles) < len(titles)}
    for item in candidates:
        if set(titles[item]) & told:
            assert likeness.of([item], [item]) == pytest.approx([1.0])
    assert not likeness.of([], candidates).any()


def test_the_second_warm_up_asks_for_likeness_alone_and_then_it_is_a_share(bpe: Backbone) -> None:
    builder = PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "compact", max_history=5)
    drawn = [np.random.default_rng(u).integers(1, ITEMS + 1, size=9) for u in range(4)]
    config = LlamaRecConfig(history=5, alike=0.25, alike_prompts=20, binding_prompts=3, seed=3)
    told = drawn, prefixes(drawn), builder, tiny.Neighbours(ITEMS), ITEMS
    warm = list(examples(*told, config, stage="alike"))
    sharp = list(examples(*told, replace(config, alike_sharpness=80.0), stage="alike"))
    mixed, plain = (list(examples(*told, replace(config, alike=share))) for share in (0.25, 0.0))
    assert [e.position for e in warm[:2]] == [3, 4]
    assert [e.position for e in mixed[:2]] == [23, 24]
    for example in (*warm, *mixed):
        assert example.target_K.sum() == pytest.approx(1, abs=1e-5)
    assert all((e.target_K > 0).all() for e in warm)
    assert all(b.target_K.max() >= a.target_K.max() - 1e-6 for a, b in zip(warm, sharp, strict=True))
    for one, other in zip(mixed, plain, strict=True):
        assert one.prompt == other.prompt
        assert (one.target_K >= 0.75 * other.target_K - 1e-6).all()


def test_the_teachers_opinion_reads_what_the_prompt_shows(bpe: Backbone) -> None:
    builder = PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "compact", max_history=2)
    asked = Questions([np.array([9, 5, 7])], np.array([[5, 9, 0]]), np.zeros((1, 3)), np.array([0]))
    [[seen, forgotten, missing]] = opinion(asked, builder, 8.0)
    assert seen > forgotten
    assert missing == -np.inf
    assert [[seen, forgotten]] == [(8 * Likeness(builder.titles).of([5, 7], [5, 9])).tolist()]


def test_a_run_may_begin_with_what_another_learnt(artifact: Path, bpe_folder: Path, tmp_path: Path) -> None:
    stands = {"learning_rate": 1e-12, "warmup": 0, "alike": 0.5, "alike_prompts": 16, "blend_users": 12}
    made = tiny.trained(tmp_path / "out", bpe_folder, begin=str(artifact), **stands)
    kept, begun = (load_file(folder / "adapter.safetensors") for folder in (artifact, tmp_path / "out"))
    assert any(tensor.any() for name, tensor in kept.items() if "lora_B" in name)
    assert all(torch.allclose(begun[name], tensor, atol=1e-8) for name, tensor in kept.items())
    assert [prompts for prompts, *_ in made.metrics["curve"]] == [32, 48, 64, 80, 96]


def test_a_beginning_that_does_not_fit_is_refused(artifact: Path, bpe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="do not fit"):
        tiny.trained(tmp_path / "out", bpe_folder, begin=str(artifact), lora_rank=2)
    with pytest.raises(BadArtifact):
        tiny.trained(tmp_path / "out", bpe_folder, begin=str(tmp_path / "nothing"))
