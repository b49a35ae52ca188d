"""LLaRA's loss, its behavioural tokens and its ways to score, against plain forwards."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ranker.backbone import Backbone
from ranker.engines.soft import states
from ranker.llara.batches import Binding, Slate
from ranker.llara.generate import generate, named, told_titles
from ranker.llara.model import LLaRA, sr2llm
from ranker.llara.prompt import Answer
from tests.ranker.llara import made

BATCH = [Slate([5, 9, 2], [7, 3, 30, 11], 1), Slate([1], [4, 8], 0)]


class Slow:
    """Logits in float64, the behavioural tokens put in by hand."""

    def __init__(self, model: LLaRA) -> None:
        self.model = model
        self.llama = copy.deepcopy(model.base.model).double()

    def logits(self, ids: list[int]) -> Tensor:
        words, vocabulary = self.llama.get_input_embeddings().weight, self.model.prompts.vocabulary
        rows = [words[i] if i < vocabulary else self.soft(i - vocabulary) for i in ids]
        return self.llama(inputs_embeds=torch.stack(rows)[None]).logits[0, -1]

    def soft(self, item: int) -> Tensor:
        projector = copy.deepcopy(self.model.projector).double()
        vector_d = self.model.behaviour.item_vectors(torch.tensor([item]))[0].double() * projector.scale
        inner = [self.gelu(float(x)) for x in projector.up.weight @ vector_d + projector.up.bias]
        return projector.down.weight @ torch.tensor(inner, dtype=torch.float64) + projector.down.bias

    def log_probability(self, prompt: list[int], answer: list[int]) -> float:
        told = [torch.log_softmax(self.logits(prompt + answer[:n]), 0)[t] for n, t in enumerate(answer)]
        return math.fsum(float(one) for one in told)

    @staticmethod
    def gelu(x: float) -> float:
        return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


@torch.no_grad()
def test_a_user_is_known_by_what_the_prompt_tells_as_in_training(bpe: Backbone) -> None:
    """The sequential model would see one item more."""
    model = made.model(bpe, user=True)
    assert model.behaviour.sizes.window > model.prompts.max_history
    (long_C, _), (told_C, _) = model.opinions([[8, 5, 9, 2], [5, 9, 2]], [[7, 3, 11]] * 2, hybrid=True)
    np.testing.assert_allclose(long_C, told_C, atol=1e-5)


@pytest.mark.parametrize("hybrid", [True, False])
@torch.no_grad()
def test_the_loss_is_the_papers_over_the_answers_tokens(bpe: Backbone, hybrid: bool) -> None:
    model = made.model(bpe)
    slow = Slow(model)
    total, tokens = 0.0, 0
    for slate in BATCH:
        answer = model.prompts.right(slate.candidates, slate.right)
        total -= slow.log_probability(model.prompt(slate.history, slate.candidates, hybrid), answer)
        tokens += len(answer)
    assert float(model.loss(BATCH, hybrid)) == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize("answer", ["title", "letter"])
@torch.no_grad()
def test_a_bindings_users_do_not_see_one_another(bpe: Backbone, answer: Answer) -> None:
    """Each as a prompt of its own without a history, that ends with the token of a user who has one."""
    model = made.model(bpe, answer, user=True)
    batch = [Binding([7, 3, 30, 11], [2, 1], [[5, 9], [2]]), Binding([4, 8], [0], [[1, 2, 3]])]
    total, tokens = 0.0, 0
    for one in batch:
        for place, history in zip(one.asked, one.histories, strict=True):
            nobodys = model.prompt([], one.candidates, True)[: -len(model.prompts.mark)]
            prompt = [*nobodys, model.prompt(history, one.candidates, True)[-1]]
            right = model.prompts.right(one.candidates, place)
            [hidden_TD] = states(model.base, [prompt + right[:-1]], model.filling([history]))
            log_NV = torch.log_softmax(model.base.model.lm_head(hidden_TD[len(prompt) - 1 :]).double(), dim=-1)
            total -= float(log_NV.gather(1, torch.tensor(right)[:, None]).sum())
            tokens += len(right)
    assert float(model.binding_loss(batch)) == pytest.approx(total / tokens, rel=1e-4)


@torch.no_grad()
def test_titles_likelihoods_over_the_shared_prefix_are_those_of_whole_prompts(bpe: Backbone) -> None:
    model = made.model(bpe)
    slow = Slow(model)
    told = model.opinions([s.history for s in BATCH], [s.candidates for s in BATCH], hybrid=True)
    for slate, (log_C, mass) in zip(BATCH, told, strict=True):
        prompt = model.prompt(slate.history, slate.candidates, True)
        expected = [
            slow.log_probability(prompt, model.prompts.right(slate.candidates, n)) for n in range(len(slate.candidates))
        ]
        np.testing.assert_allclose(log_C, expected, atol=1e-3)
        assert mass == pytest.approx(sum(math.exp(one) for one in expected), rel=1e-3)


@torch.no_grad()
def test_letters_are_the_label_logits_of_a_plain_forward(bpe: Backbone) -> None:
    model = made.model(bpe, "letter")
    slow = Slow(model)
    told = model.opinions([s.history for s in BATCH], [s.candidates for s in BATCH], hybrid=True)
    for slate, (log_C, mass) in zip(BATCH, told, strict=True):
        log_V = torch.log_softmax(slow.logits(model.prompt(slate.history, slate.candidates, True)), 0)
        expected_C = log_V[model.prompts.labels[: len(slate.candidates)]]
        np.testing.assert_allclose(log_C, expected_C, atol=1e-4)
        assert mass == pytest.approx(float(expected_C.exp().sum()), abs=1e-5)


def test_a_text_only_batch_leaves_the_projector_untouched(bpe: Backbone) -> None:
    for hybrid in (True, False):
        model = made.model(bpe)
        embeds = bpe.model.get_input_embeddings().weight
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(embeds, "requires_grad", True)  # so that a text-only loss has something to descend on
            model.loss(BATCH, hybrid).backward()
        embeds.grad = None
        touched = [parameter.grad is not None for parameter in model.projector.parameters()]
        assert all(touched) if hybrid else not any(touched)


@torch.no_grad()
def test_a_users_token_is_its_vector_as_long_as_an_items_projected(bpe: Backbone) -> None:
    model = made.model(bpe, user=True)
    histories = [[3, 5], [9]]
    slots = torch.tensor([4, 31, 32])
    found = model.filling(histories)(slots)
    window = torch.tensor([[0, 0, 3, 5], [0, 0, 0, 9]])
    nobody = torch.zeros(2, dtype=torch.long)
    users = model.behaviour.user_vectors(nobody, window, nobody)
    long = sum(float(row.norm()) for row in model.behaviour.known_item_vectors()) / 29
    rows = [model.behaviour.item_vectors(torch.tensor([4]))[0], *(long * user / user.norm() for user in users)]
    torch.testing.assert_close(found, model.projector(torch.stack(rows)), atol=1e-5, rtol=1e-4)
    for n, history in enumerate(histories):
        prompt = model.prompt(history, [7, 8], True, n)
        assert prompt[-1] - model.prompts.vocabulary == 31 + n
    assert model.prompt([30], [7, 8], True)[-1] == model.prompts.mark[-1]


@torch.no_grad()
def test_with_users_tokens_a_batch_is_its_singles(bpe: Backbone) -> None:
    model = made.model(bpe, user=True)
    told = model.opinions([s.history for s in BATCH], [s.candidates for s in BATCH], hybrid=True)
    for slate, (log_C, _) in zip(BATCH, told, strict=True):
        [(alone_C, _)] = model.opinions([slate.history], [slate.candidates], hybrid=True)
        np.testing.assert_allclose(log_C, alone_C, atol=1e-4)
    weights = [float(model.loss([slate], True)) * answer_size(model, slate) for slate in BATCH]
    tokens = sum(answer_size(model, slate) for slate in BATCH)
    assert float(model.loss(BATCH, True)) == pytest.approx(sum(weights) / tokens, rel=1e-5)


def answer_size(model: LLaRA, slate: Slate) -> int:
    return len(model.prompts.right(slate.candidates, slate.right))


def test_the_projector_is_as_wide_inside_as_the_language_model() -> None:
    projector = sr2llm(made.behaviour(), 24)
    assert (tuple(projector.up.weight.shape), tuple(projector.down.weight.shape)) == ((24, 8), (24, 24))


@torch.no_grad()
def test_an_item_that_training_never_saw_is_told_by_its_title_alone(bpe: Backbone) -> None:
    model = made.model(bpe)
    prompt = model.prompt([5], [30, 7], hybrid=True)
    slots = [token - model.prompts.vocabulary for token in prompt if token >= model.prompts.vocabulary]
    assert slots == [5, 7]


@torch.no_grad()
def test_generation_is_greedy_over_the_hybrid_prompt(bpe: Backbone) -> None:
    model = made.model(bpe)
    slow = Slow(model)
    [found] = generate(model, BATCH[:1], True, None)
    ids = model.prompt(BATCH[0].history, BATCH[0].candidates, True)
    made_ids: list[int] = []
    for _ in range(max(len(title) for title in model.prompts.titles) + 1):
        token = int(slow.logits(ids + made_ids).argmax())
        made_ids.append(token)
        if token == model.prompts.end:
            break
    assert found == bpe.tokenizer.decode(made_ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("answer", "place"),
    [("Alien", 0), (" Alien 3\n", 1), ("Alien 33", None), ("alien", None), ("", None), ("Heat", None), ("Yes", 4)],
)
def test_an_answer_names_one_candidate_by_its_whole_title(answer: str, place: int | None) -> None:
    assert named(answer, ["Alien", "Alien 3", "Heat", "Heat", "Yes"]) == place


def test_titles_are_told_as_the_prompt_cuts_them(bpe: Backbone) -> None:
    model = made.model(bpe)
    assert told_titles(model, Slate([], [1, 2], 0)) == ["Alien Alien 0", "Brazil Alien 1"]
