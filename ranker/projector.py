"""From the space of a small recommender to that of the language model's input embeddings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class Projector(nn.Module):
    """A two-layer MLP: CoLLM's mapping (section 3.2.2, inner = 10 d, ReLU), LLaRA's SR2LLM (section 3.2, inner =
    the language model's width, GELU).

    scale: what the vectors are multiplied by first. Where we differ: recommenders that rank well may have vectors of
    any length, and from short ones the first layer learns nothing in a training's time.
    """

    scale: Tensor

    def __init__(
        self, width: int, inner: int, hidden: int, activation: Literal["relu", "gelu"], scale: float = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.up = nn.Linear(width, inner)
        self.activation = nn.ReLU() if activation == "relu" else nn.GELU()
        self.down = nn.Linear(inner, hidden)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_ND * self.scale)))


@torch.no_grad()
def unit_scale(vectors_ND: Tensor) -> float:
    """The factor that brings their root mean square to 1."""
    return float(vectors_ND.float().square().mean().clamp(min=1e-8).rsqrt())
