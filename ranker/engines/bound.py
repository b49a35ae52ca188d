"""LoRA adapters in an engine that several rankers share: as files that vLLM reads, and as an engine of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from ranker.engines.protocol import Engine, LabelScores, Prompt, TellsLikelihoods


class Adaptable(Engine, TellsLikelihoods, Protocol):
    def unload_adapter(self, name: str) -> None: ...


class Bound:
    """The Engine protocol under one adapter's name. The adapter goes with it, the engine stays for the others."""

    def __init__(self, engine: Adaptable, adapter: str) -> None:
        self.engine, self.adapter = engine, adapter

    def label_logits(
        self,
        prompts: Sequence[Prompt],
        labels: Sequence[int],
        adapter: str | None = None,
        keep: Sequence[int] | None = None,
    ) -> LabelScores:
        return self.engine.label_logits(prompts, labels, adapter or self.adapter, keep)

    def last_hidden(
        self, prompts: Sequence[Prompt], adapter: str | None = None, keep: Sequence[int] | None = None
    ) -> np.ndarray:
        return self.engine.last_hidden(prompts, adapter or self.adapter, keep)

    def log_likelihoods(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[Sequence[int]]],
        adapter: str | None = None,
        keep: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        return self.engine.log_likelihoods(prompts, answers, adapter or self.adapter, keep)

    def close(self) -> None:
        self.engine.unload_adapter(self.adapter)


def peft_folder(folder: Path, weights: Mapping[str, Tensor], alpha: float) -> Path:
    """weights: by the names that `ranker.fit.adapter_weights` gives."""
    folder.mkdir()
    # peft names the adapter in the names of a live model's weights, but not in a file's.
    named = {name.replace(".default.", "."): tensor.contiguous() for name, tensor in weights.items()}
    [rank] = {tensor.shape[0] for name, tensor in named.items() if ".lora_A." in name}
    targets = sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in named})
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": targets, "bias": "none"}
    save_file(named, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"task_type": "CAUSAL_LM"}))
    return folder
