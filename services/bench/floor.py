"""What a forward cannot be faster than: its floating-point operations over the rate at which this machine multiplies
the same shapes, measured in the same run.

Shapes:  N tokens  L layers
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a Llama."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    inner: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        sizes = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, head
        return cls(config.num_hidden_layers, *sizes, config.intermediate_size)

    @property
    def products(self) -> tuple[tuple[int, int], ...]:
        """In and out of a layer's matrices; those that read the same input as one."""
        attention = self.heads * self.head
        qkv = attention + 2 * self.kv_heads * self.head
        return (self.hidden, qkv), (attention, self.hidden), (self.hidden, 2 * self.inner), (self.inner, self.hidden)

    def linear_flop(self, tokens: int) -> float:
        return 2.0 * tokens * self.layers * sum(i * o for i, o in self.products)

    def flop(self, lengths: Sequence[int]) -> float:
        """Of prompts of these lengths: all products, and causal attention's two. Norms, rotations, activations and the
        head's one row are left out."""
        attention = sum(2.0 * length * length * self.heads * self.head * self.layers for length in lengths)
        return self.linear_flop(sum(lengths)) + attention


def products(shape: Shape, tokens: int, dtype: torch.dtype, device: torch.device, packed: bool) -> Callable[[], None]:
    """All products of one forward and nothing else, each layer with weights of its own. packed: in oneDNN's own layout,
    which is the fastest that torch has on a CPU."""
    inputs = {i: torch.randn(tokens, i, device=device).to(dtype) for i, _ in shape.products}
    weights = [
        [torch.randn(o, i, device=device).mul_(0.02).to(dtype) for i, o in shape.products] for _ in range(shape.layers)
    ]
    if packed:
        weights = [[torch.ops.mkldnn._reorder_linear_weight(w, tokens) for w in layer] for layer in weights]

    @torch.inference_mode()
    def run() -> None:
        for layer in weights:
            for (i, _), weight in zip(shape.products, layer, strict=True):
                if packed:
                    torch.ops.mkldnn._linear_pointwise(inputs[i], weight, None, "none", [], "")
                else:
                    F.linear(inputs[i], weight)

    return run
