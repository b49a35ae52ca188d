"""From the space of a small recommender to that of the language model's input embeddings."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn


class Projector(nn.Module):
    """A two-layer MLP: CoLLM's mapping (section 3.2.2, inner = 10 d, ReLU), LLaRA's SR2LLM (section 3.2, inner =
    the language model's width, GELU)."""

    def __init__(self, width: int, inner: int, hidden: int, activation: Literal["relu", "gelu"]) -> None:
        super().__init__()
        self.up = nn.Linear(width, inner)
        self.activation = nn.ReLU() if activation == "relu" else nn.GELU()
        self.down = nn.Linear(inner, hidden)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_ND)))
