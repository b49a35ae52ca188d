"""Weights as an artifact keeps them: in float32, in half of that, or as int8 rows with a scale each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Precision = Literal["float32", "float16", "int8"]
SCALE, LARGEST = ".scale", 127
"""Row r of an int8 matrix `name` is its integers times `name`.scale[r]; vectors beside them are float16."""


def stored(tensors: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """As a file takes them. What is no floating-point number stays as it is."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().cpu().contiguous()
        if not whole.is_floating_point():
            kept[name] = whole
        elif precision == "int8" and whole.dim() == 2:
            scale_R = whole.float().abs().amax(1).clamp(min=1e-12) / LARGEST
            kept[name] = (whole.float() / scale_R[:, None]).round().to(torch.int8)
            kept[name + SCALE] = scale_R
        else:
            kept[name] = whole.to(torch.float32 if precision == "float32" else torch.float16)
    return kept


def restored(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point numbers come back in float32."""
    scales = {name + SCALE for name, tensor in kept.items() if tensor.dtype is torch.int8}
    tensors: dict[str, Tensor] = {}
    for name, tensor in kept.items():
        if tensor.dtype is torch.int8:
            tensors[name] = tensor.float() * kept[name + SCALE][:, None]
        elif name not in scales:
            tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    return tensors


def save(tensors: Mapping[str, Tensor], file: Path, precision: Precision) -> None:
    save_file(stored(tensors, precision), file)


def load(file: Path) -> dict[str, Tensor]:
    return restored(load_file(file))


@torch.no_grad()
def settle(module: nn.Module, precision: Precision) -> None:
    """Rounds a trained module to what its file will hold, so that what is measured is what will serve."""
    state = module.state_dict()
    for name, tensor in restored(stored(state, precision)).items():
        state[name].copy_(tensor)
