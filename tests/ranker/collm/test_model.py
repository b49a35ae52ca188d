"""CoLLM's equations, and the shared prefix against whole prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ranker.backbone import Backbone
from ranker.behaviour.models import Name
from ranker.collm.model import Asked, CoLLM, mapping, pair_loss
from ranker.collm.rank import CoLLMScorer
from shared.data.pairs import Pairs, left_padded
from shared.history import History
from tests.ranker.collm import made


def test_the_loss_is_binary_cross_entropy_on_the_yes_logit() -> None:
    rng = np.random.default_rng(0)
    logits_N, labels_N = rng.normal(scale=3, size=9), rng.integers(0, 2, 9).astype(float)
    total = 0.0
    for logit, label in zip(logits_N, labels_N, strict=True):
        p = 1 / (1 + math.exp(-logit))
        total -= label * math.log(p) + (1 - label) * math.log(1 - p)
    found = pair_loss(torch.from_numpy(logits_N), torch.from_numpy(labels_N))
    assert float(found) == pytest.approx(total / 9, abs=1e-12)


def test_the_mapping_is_a_two_layer_network_ten_times_as_wide_inside() -> None:
    torch.manual_seed(0)
    mapped = mapping(made.behaviour("mf"), 12).double().requires_grad_(False)
    x_D = torch.randn(8, dtype=torch.float64)
    scaled_D = x_D * float(mapped.scale)
    assert mapped.up.weight.shape == (80, 8)
    inner = [max(0.0, float(row @ scaled_D + bias)) for row, bias in zip(mapped.up.weight, mapped.up.bias, strict=True)]
    inner_D = torch.tensor(inner, dtype=torch.float64)
    expected = [float(row @ inner_D + bias) for row, bias in zip(mapped.down.weight, mapped.down.bias, strict=True)]
    np.testing.assert_allclose(mapped(x_D).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["mf", "din", "sasrec"])
@pytest.mark.parametrize("hybrid", [True, False])
@torch.no_grad()
def test_candidates_over_a_shared_prefix_score_as_twenty_whole_prompts(bpe: Backbone, name: Name, hybrid: bool) -> None:
    model = made.model(bpe, name)
    asked = Asked(3, [5, 9, 2], list(range(1, 21)))
    [(packed_C, _)] = model.logits([asked], hybrid)
    one = np.ones(20, dtype=np.int64)
    whole = Pairs(3 * one, np.arange(1, 21), one.astype(np.float32), left_padded([[5, 9, 2]] * 20, 6), one > 0)
    alone_C = [float(model.pair_logits(whole.take(np.array([row])), hybrid)) for row in range(20)]
    np.testing.assert_allclose(packed_C, alone_C, atol=1e-4)
    assert np.std(alone_C) > 0.01


@pytest.mark.parametrize("name", ["mf", None])
def test_the_tokens_that_a_request_is_counted_with_are_those_that_are_read(bpe: Backbone, name: Name | None) -> None:
    model = made.model(bpe, name or "mf")
    if name is None:
        model = CoLLM(bpe, model.prompts, None, None)
    asked = Asked(3, [5, 9, 2], list(range(1, 21)))
    [group], _ = model.groups([asked], hybrid=name is not None)
    assert CoLLMScorer(model, {}, 20).tokens(History((5, 9, 2)), asked.items) == len(group)


@torch.no_grad()
def test_soft_tokens_carry_the_mapped_vectors_of_their_own_user_and_item(bpe: Backbone) -> None:
    """Against embeddings put together by hand."""
    model = made.model(bpe, "mf")
    table = bpe.model.get_input_embeddings()
    embeds = []
    for token in [*model.prompts.prefix([5, 9]), *model.prompts.user]:
        embeds.append(table.weight[token])
    assert model.mapping is not None
    assert model.behaviour is not None
    behaviour = model.behaviour
    users, items = torch.tensor([4]), torch.tensor([7])
    embeds.append(model.mapping(behaviour.user_vectors(users, users[:, None], items))[0])
    embeds += [table.weight[t] for t in model.prompts.title + model.prompts.titles[7] + model.prompts.item]
    embeds.append(model.mapping(behaviour.item_vectors(items))[0])
    embeds += [table.weight[t] for t in model.prompts.cue]
    logits_V = bpe.model(inputs_embeds=torch.stack(embeds)[None]).logits[0, -1]
    [(found_C, mass_C)] = model.logits([Asked(4, [5, 9], [7])], hybrid=True)
    yes, no = model.prompts.answers
    assert float(found_C[0]) == pytest.approx(float(logits_V[yes]), abs=1e-4)
    assert float(mass_C[0]) == pytest.approx(float(torch.softmax(logits_V, 0)[[yes, no]].sum()), abs=1e-5)


@torch.no_grad()
def test_a_side_without_a_vector_is_asked_by_text_alone(bpe: Backbone) -> None:
    model = made.model(bpe, "mf")
    known, new_item, new_user = Asked(3, [5], [7, 8]), Asked(3, [5], [7, 30]), Asked(20, [5], [7, 8])
    [(hybrid_C, _), (item_C, _), (user_C, _)] = model.logits([known, new_item, new_user], hybrid=True)
    [(text_C, _), (text_item_C, _)] = model.logits([known, new_item], hybrid=False)
    assert torch.allclose(user_C, text_C, atol=1e-5)
    assert float(item_C[0]) == pytest.approx(float(hybrid_C[0]), abs=1e-5)
    assert float(item_C[1]) == pytest.approx(float(text_item_C[1]), abs=1e-5)
    assert float((hybrid_C - text_C).abs().max()) > 1e-3


@torch.no_grad()
def test_the_user_of_a_sequential_model_is_its_history(bpe: Backbone) -> None:
    model = made.model(bpe, "sasrec")
    [(one_C, _), (other_C, _), (nobody_C, _)] = model.logits(
        [Asked(3, [5, 9], [7]), Asked(0, [5, 9], [7]), Asked(3, [], [7])], hybrid=True
    )
    [(text_C, _)] = model.logits([Asked(3, [], [7])], hybrid=False)
    assert torch.equal(one_C, other_C)
    assert torch.allclose(nobody_C, text_C, atol=1e-6)
