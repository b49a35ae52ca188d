"""What may serve as a backbone, and what is refused in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from ranker import backbone
from ranker.fit import LINEAR_LAYERS, add_lora
from shared.errors import BadInput
from tests.ranker import tiny


@pytest.fixture
def copy(bpe_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bpe_folder, tmp_path / "copy"))


def test_a_folder_in_hugging_face_layout_loads(bpe_folder: Path) -> None:
    base = backbone.load(str(bpe_folder), dtype=torch.float32)
    assert (base.name, base.dtype, base.device.type) == (str(bpe_folder), torch.float32, "cpu")
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_the_weights_are_those_that_were_saved(bpe_folder: Path) -> None:
    base = backbone.load(str(bpe_folder), dtype=torch.float32)
    expected = tiny.llama(len(base.tokenizer)).state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in base.model.state_dict().items())


def test_the_number_type_may_be_chosen(bpe_folder: Path) -> None:
    assert backbone.load(str(bpe_folder), dtype=torch.bfloat16).model.lm_head.weight.dtype == torch.bfloat16


def test_fewer_layers_are_an_early_exit_of_the_whole_model(bpe_folder: Path) -> None:
    """The first layer's state, through the final norm and the head."""
    whole, cut = (backbone.load(str(bpe_folder), dtype=torch.float32, layers=layers) for layers in (0, 1))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        first = whole.model(ids, output_hidden_states=True).hidden_states[1]
        expected = whole.model.lm_head(whole.model.model.norm(first))
        torch.testing.assert_close(cut.model(ids).logits, expected)
    assert cut.model.config.num_hidden_layers == len(cut.model.model.layers) == 1


@pytest.mark.parametrize("layers", [3, 100, -1])
def test_layers_that_the_backbone_does_not_have_are_refused(bpe_folder: Path, layers: int) -> None:
    with pytest.raises(BadInput, match=f"layers={layers}: .*has 2"):
        backbone.load(str(bpe_folder), layers=layers)


def test_four_bits_without_bitsandbytes_are_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"nf4 needs bitsandbytes.*quantization=none"):
        backbone.load("no/such/model", device="cpu", quantization="nf4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(bpe_folder: Path) -> None:
    with pytest.raises(BadInput, match="device 'cuda'"):
        backbone.load(str(bpe_folder), device="cuda")


def test_a_device_that_nobody_makes_is_refused(bpe_folder: Path) -> None:
    with pytest.raises(BadInput, match="device 'abacus'"):
        backbone.load(str(bpe_folder), device="abacus")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere.*cannot be loaded.*smollm2-135m"):
        backbone.load(str(tmp_path / "nowhere"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be loaded"):
        backbone.load(str(tmp_path))


def test_a_folder_with_a_config_that_is_no_json_is_refused(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be loaded"):
        backbone.load(str(copy))


def test_a_model_type_that_nobody_knows_is_refused(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "no_such_type"}))
    with pytest.raises(BadInput, match="cannot be loaded"):
        backbone.load(str(copy))


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="cannot be loaded"):
        backbone.load(str(copy))


def test_truncated_weights_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(BadInput, match="cannot be loaded"):
        backbone.load(str(copy))


def test_weights_that_lack_a_matrix_are_refused_by_its_name(copy: Path) -> None:
    """transformers would make it up at random."""
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"missing keys.*model\.layers\.1\.mlp\.up_proj\.weight"):
        backbone.load(str(copy))


def test_weights_of_another_shape_are_refused(copy: Path) -> None:
    tiny.llama(300, hidden=32).save_pretrained(copy / "other")
    shutil.copy(copy / "other" / "model.safetensors", copy / "model.safetensors")
    with pytest.raises(BadInput, match="cannot be loaded: mismatched keys"):
        backbone.load(str(copy))


def test_pickled_weights_are_never_read(copy: Path) -> None:
    model = tiny.llama(100)
    (copy / "model.safetensors").unlink()
    torch.save(model.state_dict(), copy / "pytorch_model.bin")
    with pytest.raises(BadInput, match="cannot be loaded"):
        backbone.load(str(copy))


def test_a_folder_without_a_tokenizer_is_refused(copy: Path) -> None:
    for file in copy.glob("*token*"):
        file.unlink()
    with pytest.raises(BadInput, match="cannot be loaded"):
        backbone.load(str(copy))


def test_a_model_of_another_family_is_refused_by_its_name(tmp_path: Path) -> None:
    tokenizer = tiny.bpe(tiny.corpus())
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64))
    with pytest.raises(BadInput, match="is a GPT2LMHeadModel, which is not of the Llama family"):
        backbone.load(str(tiny.save(tmp_path / "gpt2", tokenizer, gpt2)))


def test_shared_trees_hold_the_same_tensors_and_leave_one_another_alone(bpe_folder: Path) -> None:
    pool = backbone.Pool("cpu")
    one, other = (pool.get(str(bpe_folder), layers=n, quantization="none") for n in (0, 1))
    ours = {t.data_ptr() for t in one.model.parameters()}
    assert {t.data_ptr() for t in other.model.parameters()} < ours
    assert (len(one.model.model.layers), len(other.model.model.layers)) == (2, 1)
    before_BTV = one.model(torch.tensor([[1, 2, 3]])).logits
    wrapped = add_lora(other.model, rank=4, alpha=8, dropout=0.0, targets=LINEAR_LAYERS)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(1.0)
    assert torch.equal(one.model(torch.tensor([[1, 2, 3]])).logits, before_BTV)
    assert not any("lora" in name for name, _ in one.model.named_parameters())
