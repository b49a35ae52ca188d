"""The likeness of titles: a cosine by hand, and the prompts that teach it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import ranker.llamarec.train as training
from ranker.backbone import Backbone
from ranker.blend import log_softmax
from ranker.engines.local import LocalEngine
from ranker.evaluate import Questions
from ranker.llamarec.batches import examples, prefixes
from ranker.llamarec.likeness import Likeness, opinion
from ranker.llamarec.model import LlamaRecConfig, asked_loss, configure, log_labels
from ranker.prompt import PromptBuilder
from ranker.verbalizer import letters
from shared.artifact import open_artifact
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
    assert made.config["begin"] == open_artifact(artifact, "ranker").name


@pytest.mark.parametrize("change", [{"lora_rank": 2}, {"lora_alpha": 64}, {"lora_targets": ("q_proj",)}], ids=str)
def test_a_beginning_that_would_mean_something_else_is_refused(
    artifact: Path, bpe_folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match=f"its {next(iter(change))} is"):
        tiny.trained(tmp_path / "out", bpe_folder, begin=str(artifact), **change)


def test_questions_may_learn_from_the_truth_alone(bpe_folder: Path, tmp_path: Path) -> None:
    made = tiny.trained(tmp_path / "out", bpe_folder, template="asked", probe=0.0, prompts=16)
    assert made.config["alike"] == made.config["alike_prompts"] == 0
    assert made.metrics["prompts"] == 32


def test_a_list_that_leaves_no_room_for_a_question_is_left_out(bpe: Backbone) -> None:
    builder = PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "asked", max_history=3, max_tokens=10)
    drawn = [np.arange(1, 8)]
    config = LlamaRecConfig(template="asked", history=3, alike=0.4)
    assert list(examples(drawn, prefixes(drawn), builder, tiny.Neighbours(ITEMS), ITEMS, config)) == []


def test_a_beginning_that_is_not_there_is_refused(bpe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact):
        tiny.trained(tmp_path / "out", bpe_folder, begin=str(tmp_path / "nothing"))


def test_questions_stand_behind_the_same_list_and_ask_for_one_title_each(bpe: Backbone) -> None:
    asked = PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "asked", max_history=2)
    plain = PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "compact", max_history=2)
    first, second = asked.prompts([9, 5, 7], [1, 2, 3])
    assert first == plain.build_binding(5, [1, 2, 3])
    assert second == plain.build_binding(7, [1, 2, 3])
    assert asked.prompts([], [1, 2, 3]) == []
    assert plain.prompts([9, 5, 7], [1, 2]) == [plain.build([9, 5, 7], [1, 2])]
    assert asked.tokens([5, 7], [1, 2, 3]) == len(first) + len(second) - len(asked.listed([1, 2, 3]))


def test_questions_that_do_not_fit_are_left_out_oldest_first(bpe: Backbone) -> None:
    free = PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "asked", max_history=5)
    room = len(free.listed([1, 2])) + len(free.question(8)) + len(free.question(9))
    tight = PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "asked", max_history=5, max_tokens=room)
    assert tight.prompts([7, 8, 9], [1, 2]) == free.prompts([8, 9], [1, 2])


def test_the_loss_of_questions_is_the_papers_for_one_and_a_mean_of_probabilities_for_several() -> None:
    """Against a plain loop in float64."""
    torch.manual_seed(0)
    log_QK = torch.log_softmax(torch.randn(4, 5, dtype=torch.float64), -1)
    target_K, alike_QK = torch.softmax(torch.randn(5).double(), 0), torch.softmax(torch.randn(4, 5).double(), -1)
    own, share = 3, 0.3
    truth = -sum(float(target_K[k]) * math.log(sum(math.exp(log_QK[q, k]) for q in range(own)) / own) for k in range(5))
    alike = -sum(float(alike_QK[q, k] * log_QK[q, k]) for q in range(4) for k in range(5)) / 4
    assert float(asked_loss(log_QK, target_K, alike_QK, own, share)) == pytest.approx(0.7 * truth + 0.3 * alike)
    one = asked_loss(log_QK[:1], target_K, alike_QK[:1], 1, 0.0)
    assert float(one) == pytest.approx(-float((target_K * log_QK[0]).sum()))


def test_a_users_letters_are_the_mean_of_his_questions(bpe: Backbone) -> None:
    builder = PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "asked", max_history=3)
    engine, listed = LocalEngine(bpe), list(range(10, 30))
    histories = [[1, 2, 3], [4], []]
    *found, nobody = letters(engine, builder, histories, [listed] * 3, [[0.0] * 20] * 3)
    assert not nobody.logits_C.any()
    assert nobody.mass == 0
    for history, one in zip(histories[:2], found, strict=True):
        alone = [engine.label_logits([prompt], builder.labels) for prompt in builder.prompts(history, listed)]
        chances = np.mean([np.exp(log_softmax(scores.logits_BK[0].astype(float))) for scores in alone], axis=0)
        np.testing.assert_allclose(np.exp(log_softmax(one.logits_C.astype(float))), chances, atol=1e-4)
        assert one.mass == pytest.approx(np.mean([scores.mass_B[0] for scores in alone]), abs=1e-4)


def test_questions_in_one_sequence_are_questions_one_by_one(bpe: Backbone) -> None:
    """Training reads them as branches of one sequence; the loss is that of prompts of their own."""
    builder = PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "asked", max_history=3)
    drawn = [np.random.default_rng(u).integers(1, ITEMS + 1, size=7) for u in range(3)]
    config = LlamaRecConfig(template="asked", history=3, alike=0.4, alike_prompts=5, seed=3, loss="vocabulary")
    told = drawn, prefixes(drawn), builder, tiny.Neighbours(ITEMS), ITEMS, config
    batch = [*list(examples(*told, stage="alike"))[:3], *list(examples(*told))[:3]]
    labels_K, head_VD = torch.tensor(builder.labels), bpe.model.lm_head.weight
    expected = []
    for example in batch:
        asks = example.asks
        assert asks is not None
        prompts = [example.prompt + question for question in asks.questions]
        states_QD = torch.from_numpy(LocalEngine(bpe).last_hidden(prompts))
        log_QK = log_labels(states_QD, head_VD, labels_K, "vocabulary")
        shares = torch.from_numpy(example.target_K), torch.from_numpy(asks.alike_QK)
        expected.append(float(asked_loss(log_QK, *shares, asks.own, asks.alike)))
    found, letters_part = training._losses(bpe, labels_K, torch.zeros(1), batch, config)
    assert float(found) == letters_part == pytest.approx(np.mean(expected), abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"history": "0"}, "asks for the titles of the history"),
        ({"probe": "1"}, "without a probe"),
        ({"alike_sharpness": "0"}, "above 0"),
        ({"alike": "0.7", "teacher": "0.5"}, "together at most 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        configure("titles", settings)


def test_questions_teach_titles_that_are_alike_faster_than_one_letter_a_prompt(
    bpe_folder: Path, tmp_path: Path
) -> None:
    """Both see the same number of prompts of the second warm-up; the loss over what cannot be undercut is compared."""
    eight_titles = tiny.prepared([list(range(1, 9))] * 8, tiny.of(*tiny.WORDS))
    same = {
        "candidates": 3,
        "probe": 0.0,
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "loss": "labels",
        "binding_prompts": 0,
        "alike_prompts": 1600,
        "alike_sharpness": 16.0,
        "prompts": 32,
        "batch": 32,
        "warmup": 10,
    }
    made = {
        template: tiny.trained(tmp_path / template, bpe_folder, data=eight_titles, template=template, **same)
        for template in ("asked", "compact")
    }
    loss = {template: manifest.metrics["curve"][0][2] for template, manifest in made.items()}
    assert loss["asked"] < loss["compact"] - 0.05
