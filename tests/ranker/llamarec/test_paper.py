"""The recipe for Llama-2-7B from end to end, on a checkpoint of that layout and tokenizer with 100 thousand weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ranker import backbone
from ranker.labels import LETTERS, label_ids
from ranker.llamarec.model import configure, paper
from ranker.llamarec.train import train
from ranker.prompt import TEMPLATES
from ranker.registry import load
from shared.candidate import Candidate
from shared.history import History
from tests.ranker import tiny

pytestmark = [
    # The first layer's input needs no gradient, so that bitsandbytes takes its kernel for inference there.
    pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit. an autograd kernel was not registered"),
    pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit linear"),
]
SHORT = {"prompts": 32, "batch": 4, "validate_every": 16, "validation_users": 10, "warmup": 2}


@pytest.fixture(scope="module")
def llama2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny.sentencepiece()
    return tiny.save(tmp_path_factory.mktemp("llama-2"), tokenizer, tiny.llama(len(tokenizer)))


def test_its_linear_layers_hold_four_bits(llama2: Path) -> None:
    whole = backbone.load(str(llama2), device="cpu", dtype=torch.float32)
    quantized = backbone.load(str(llama2), device="cpu", dtype=torch.bfloat16, quantization="nf4")
    weight = quantized.model.model.layers[0].self_attn.q_proj.weight
    full = whole.model.model.layers[0].self_attn.q_proj.weight
    assert weight.quant_state.quant_type == "nf4"
    assert weight.quant_state.nested, "double quantisation"
    assert weight.numel() * 2 == full.numel()


def test_it_trains_serves_and_reproduces_its_golden_score(llama2: Path, tmp_path: Path) -> None:
    settings = replace(configure("paper", {"backbone": str(llama2)}), **SHORT)
    assert (settings.quantization, settings.template, settings.negatives) == ("nf4", "paper", "uniform")
    assert settings.lora_targets == paper().lora_targets == ("q_proj", "v_proj")
    manifest = train(tiny.DATA, tiny.Neighbours(tiny.ITEMS), "neighbours@1", settings, tmp_path / "out", device="cpu")
    assert manifest.metrics["prompts"] == 32
    loaded = load(tmp_path / "out", tiny.DATA.catalog, None, "cpu")
    loaded.self_test()
    candidates = [Candidate(item, -float(item)) for item in range(4, 24)]
    [ranking] = loaded.ranker.rank([History((1, 2, 3))], [candidates])
    assert {candidate.item for candidate in ranking.candidates} == set(range(4, 24))


def test_its_letters_are_twenty_distinct_tokens_in_context(llama2: Path) -> None:
    tokenizer = backbone.load(str(llama2), device="cpu").tokenizer
    labels = label_ids(tokenizer, TEMPLATES["paper"].cue, LETTERS)
    assert len(set(labels)) == len(LETTERS) == 20
