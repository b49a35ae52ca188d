"""The forward for inference against transformers' own, on a tiny Llama in float32."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from ranker.backbone import Backbone
from ranker.engines.lean import LeanLlama, Segment, fits
from ranker.fit import LINEAR_LAYERS, add_lora, overwrite
from tests.ranker import tiny

ONE, OTHER = [5, 9, 300, 4, 8, 8, 41], [7, 2, 19]


@torch.no_grad()
def own(base: Backbone, prompt: list[int]) -> Tensor:
    """T x D, by transformers."""
    return base.model.model(torch.tensor([prompt])).last_hidden_state[0]


def embedded(base: Backbone, *prompts: list[int]) -> Tensor:
    with torch.inference_mode():
        return base.model.get_input_embeddings()(torch.tensor([token for prompt in prompts for token in prompt]))


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def test_segments_of_any_lengths_are_what_each_is_alone(bpe: Backbone) -> None:
    states_ND, _ = LeanLlama(bpe.model).run(embedded(bpe, ONE, OTHER), [Segment(7, [6]), Segment(3, [0, 2])])
    assert apart(states_ND, torch.cat([own(bpe, ONE)[[6]], own(bpe, OTHER)[[0, 2]]])) < 1e-5


def test_known_keys_and_values_spare_their_tokens(bpe: Backbone) -> None:
    lean = LeanLlama(bpe.model)
    _, [known, _] = lean.run(embedded(bpe, ONE, OTHER), [Segment(7, [6], keep=5), Segment(3, [2])])
    states_ND, _ = lean.run(embedded(bpe, ONE[5:]), [Segment(2, [0, 1], known=[known])])
    assert known is not None
    assert known.shape[2] == 5
    assert apart(states_ND, own(bpe, ONE)[5:]) < 1e-5


def test_a_child_sees_its_parent_and_itself(bpe: Backbone) -> None:
    segments = [Segment(7, []), Segment(3, [2], follows=True)]
    states_ND, _ = LeanLlama(bpe.model).run(embedded(bpe, ONE, OTHER), segments)
    assert apart(states_ND, own(bpe, ONE + OTHER)[[9]]) < 1e-5


def test_branches_see_their_parent_and_themselves(bpe: Backbone) -> None:
    both = Segment(6, [2, 5], follows=True, starts=[0, 0, 0, 3, 3, 3], positions=[7, 8, 9] * 2)
    other = OTHER[::-1]
    states_ND, _ = LeanLlama(bpe.model).run(embedded(bpe, ONE, OTHER, other), [Segment(7, []), both])
    expected = torch.cat([own(bpe, ONE + branch)[[9]] for branch in (OTHER, other)])
    assert apart(states_ND, expected) < 1e-5


def test_lora_counts_as_it_stands_in_the_modules(bpe_folder: object) -> None:
    from ranker import backbone

    base = backbone.load(str(bpe_folder), dtype=torch.float32)
    lean = LeanLlama(base.model)
    before, _ = lean.run(embedded(base, ONE), [Segment(7, [6])])
    add_lora(base.model, rank=3, alpha=6, dropout=0.0, targets=LINEAR_LAYERS)
    for name, parameter in base.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    states_ND, _ = LeanLlama(base.model).run(embedded(base, ONE), [Segment(7, [6])])
    assert apart(states_ND, own(base, ONE)[[6]]) < 1e-4
    assert apart(states_ND, before) > 0.01


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("adapted", [False, True])
def test_bfloat16_is_no_further_from_float32_than_transformers_own(bpe: Backbone, adapted: bool) -> None:
    exact = copy.deepcopy(bpe.model)
    if adapted:
        add_lora(exact, rank=3, alpha=6, dropout=0.0, targets=LINEAR_LAYERS)
        generator = torch.Generator().manual_seed(0)
        for name, parameter in exact.named_parameters():
            if "lora_" in name:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    rounded = copy.deepcopy(exact).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(4, 400, (200,), generator=generator).tolist()
    with torch.inference_mode():
        expected = exact.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        theirs = rounded.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        embeds = rounded.get_input_embeddings()(torch.tensor(prompt))
    ours, _ = LeanLlama(rounded).run(embeds, [Segment(200, [199])])
    assert relative(ours[0], expected) < 1.5 * relative(theirs, expected) + 0.01


def test_the_packed_copy_is_made_once_for_trees_over_the_same_weights(bpe: Backbone) -> None:
    rounded = copy.deepcopy(bpe.model).to(torch.bfloat16)
    base = Backbone("tiny", rounded, bpe.tokenizer, bpe.device, torch.bfloat16)
    one, other = LeanLlama(base.model), LeanLlama(base.shared(layers=1).model)
    if one.layers[0].qkv.packed is None:
        pytest.skip("this processor has no fast bfloat16: nothing is packed")
    assert one.layers[0].qkv.packed is other.layers[0].qkv.packed


def test_weights_that_were_overwritten_are_packed_again(bpe: Backbone) -> None:
    model = copy.deepcopy(bpe.model).to(torch.bfloat16)
    before = LeanLlama(model).layers[0].down.packed
    if before is None:
        pytest.skip("this processor has no fast bfloat16: nothing is packed")
    weight = model.model.layers[0].mlp.down_proj.weight
    overwrite(weight, 2 * weight.detach())
    states_ND, _ = LeanLlama(model).run(embedded(bpe, ONE).to(torch.bfloat16), [Segment(7, [6])])
    with torch.no_grad():
        expected_D = model.model(torch.tensor([ONE])).last_hidden_state[0, -1]
    assert relative(states_ND[0], expected_D) < 0.05


@pytest.mark.parametrize("wrong", [{"positions": [0, 1]}, {"starts": [0]}, {"keep": 8}, {"read": [7]}, {"read": [-1]}])
def test_a_segment_speaks_of_its_own_tokens_alone(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="of 7 tokens"):
        Segment(**({"size": 7, "read": [6]} | wrong))


def test_other_architectures_are_left_to_transformers() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    mistral = MistralForCausalLM(MistralConfig(vocab_size=50, num_key_value_heads=1, **sizes))
    assert not fits(mistral)
    assert fits(tiny.llama(50))
