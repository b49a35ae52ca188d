"""What every training of a ranker needs: LoRA on a frozen backbone, a schedule, float32 master weights, checkpoints.

The loops themselves stand with the methods, in sight.
"""

from __future__ import annotations

import ctypes
import json
import math
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.artifact import open_artifact, write_text, writing
from shared.errors import BadInput

ADAPTER = "adapter.safetensors"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Config = TypeVar("Config", bound=Any)


def add_lora(
    model: Any,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    targets: tuple[str, ...],
    first_layer: int = 0,
    dtype: torch.dtype | None = None,
) -> Any:
    """A peft model whose only trainable weights are A and B (Hu et al., 2021): W x + alpha / rank B A x.

    Layers below `first_layer` stay as they are: nothing flows back through them and no activation is kept. Raises
    BadInput for layers or targets that the model does not have.
    """
    from peft import LoraConfig, get_peft_model

    layers = len(model.model.layers)
    if first_layer >= layers:
        raise BadInput(f"lora_first_layer={first_layer}: the model has {layers} layers, so 0 to {layers - 1}")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        layers_to_transform=list(range(first_layer, layers)) if first_layer else None,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks for a name that transformers is about to drop; it is theirs to settle.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        try:
            wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
        except ValueError as error:
            raise BadInput(f"lora_targets={','.join(targets)}: {str(error).splitlines()[0]}") from error
    for parameter in wrapped.parameters():
        if parameter.requires_grad and dtype is not None:
            parameter.data = parameter.data.to(dtype)
    return wrapped


SHORT = 512
"""Tokens up to which plain products are the faster attention on a CPU, and what they keep is no burden."""


def plain_attention(model: Any, longest: int) -> None:
    """For the training of short prompts on a CPU: torch's flash attention works on blocks of 512 keys there, and took a
    fourth of a step over prompts of 300 tokens (docs/log.md)."""
    if longest <= SHORT and next(model.parameters()).device.type == "cpu":
        model.set_attn_implementation("eager")


def keep_memory() -> None:
    """Tells glibc to keep what a step frees for the next one. By default each large tensor is mapped anew, and
    the kernel's zeroing of pages took up to half of a training step on two cores. Elsewhere it does nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
        mallopt(option, value)


def give_memory_back() -> None:
    """The other half of `keep_memory`, for now and then: prompts of ever other lengths leave ever more holes in what is
    kept, and a long run grew from 7 GB to 12. Elsewhere it does nothing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def adapter_weights(wrapped: Any) -> dict[str, Tensor]:
    """A and B by their full names, detached copies."""
    return {n: p.detach().clone() for n, p in wrapped.named_parameters() if p.requires_grad}


def set_adapter_weights(wrapped: Any, weights: Mapping[str, Tensor]) -> None:
    """Raises BadInput where names or shapes are not this adapter's."""
    own = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    if {n: p.shape for n, p in own.items()} != {n: w.shape for n, w in weights.items()}:
        raise BadInput("the adapter's weights do not fit the backbone and the LoRA config of its manifest")
    for name, parameter in own.items():
        overwrite(parameter, weights[name])


@torch.no_grad()
def overwrite(parameter: Tensor, values: Tensor) -> None:
    """So that it counts as changed: engines that laid it out look at its version, which `.data` passes by."""
    parameter.copy_(values)


class MasterAdamW:
    """AdamW on float32 copies of parameters that compute in bfloat16.

    A bfloat16 weight has 8 bits: an update below 0.4 % of it would round to nothing.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], weight_decay: float = 0.0) -> None:
        self.parameters = parameters
        self.masters = [torch.nn.Parameter(p.detach().float().clone()) for p in parameters]
        self.adamw = torch.optim.AdamW(self.masters, lr=0.0, weight_decay=weight_decay)

    def step(self, learning_rate: float, clip: float) -> None:
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters, clip)
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()
        self.publish()

    def publish(self) -> None:
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            overwrite(parameter, master.detach())

    def tensors(self) -> dict[str, Tensor]:
        flat = {f"master.{i}": m.detach() for i, m in enumerate(self.masters)}
        for i, moments in self.adamw.state_dict()["state"].items():
            flat |= {f"adam.{i}.{name}": t for name, t in moments.items()}
        return flat

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        state = self.adamw.state_dict()
        for name, t in tensors.items():
            kind, *rest = name.split(".")
            if kind == "master":
                overwrite(self.masters[int(rest[0])], t)
            elif kind == "adam":
                state["state"].setdefault(int(rest[0]), {})[rest[1]] = t
        self.adamw.load_state_dict(state)
        self.publish()


def schedule(
    kind: Literal["linear", "cosine", "constant"], step: int, total: int, warmup: int, least: float = 0.0
) -> float:
    """The learning rate's factor at a step from 0: a linear rise over `warmup`, then down to `least` at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    shapes: dict[str, Callable[[float], float]] = {
        "linear": lambda x: 1 - x,
        "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
        "constant": lambda x: 1.0,
    }
    return least + (1 - least) * shapes[kind](done)


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Weights, moments and random state as safetensors, the rest as JSON; whole or not at all."""
    with writing(folder) as draft:
        everything = dict(tensors) | {"random": torch.get_rng_state()}
        if torch.cuda.is_available():
            everything["random.cuda"] = torch.cuda.get_rng_state()
        save_file({n: t.contiguous().clone() for n, t in everything.items()}, draft / "run.safetensors")
        write_text(draft / "run.json", json.dumps(facts))


def require_checkpoint(folder: Path, resume: bool) -> None:
    """For runs of several stages. Raises BadInput where `resume` has nothing to go on from; else clears `folder`."""
    if resume and not folder.is_dir():
        raise BadInput(f"--resume: {folder} holds no checkpoint. Start without --resume.")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)


def by_name(config: Config, field: str) -> Config:
    """As a manifest keeps it: the artifact that a run begins from by what it is, not by the folder where it lay."""
    folder = getattr(config, field)
    kept: Config = replace(config, **{field: open_artifact(Path(folder), "ranker").name}) if folder else config
    return kept


def load_checkpoint(folder: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises BadInput where there is none, or where it was begun with another identity (config, data)."""
    if not (folder / "run.json").is_file():
        raise BadInput(f"--resume: {folder} holds no checkpoint. Start without --resume.")
    facts = json.loads((folder / "run.json").read_text())
    for key, value in identity.items():
        if facts.get(key) != json.loads(json.dumps(value)):
            raise BadInput(f"--resume: {folder} was begun with another {key}. Start without --resume.")
    tensors = load_file(folder / "run.safetensors")
    torch.set_rng_state(tensors.pop("random"))
    if (state := tensors.pop("random.cuda", None)) is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state)
    return tensors, facts
