"""Soft tokens in a prompt: places for vectors that the vocabulary does not hold.

A prompt is a list of ids. Below V an id is the tokenizer's; V + s is slot s of what a method fills in: a user, an
item, a projected embedding. The backbone's own table is never resized and stays frozen.

Shapes:  B prompts  T tokens, right padded  D hidden width  S distinct slots  N places of slots  V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Fill = Callable[[Tensor], Tensor]
"""Slot numbers S to their vectors S x D; each slot of a batch is asked for once."""


def splice(table: nn.Embedding, ids_BT: Tensor, fill: Fill) -> Tensor:
    """Input embeddings B x T x D, differentiable in what `fill` gives."""
    soft_BT = ids_BT >= table.num_embeddings
    embeds_BTD = table(ids_BT.masked_fill(soft_BT, 0))
    if not soft_BT.any():
        return embeds_BTD
    slots_S, slot_N = torch.unique(ids_BT[soft_BT] - table.num_embeddings, return_inverse=True)
    vectors_SD = fill(slots_S).to(embeds_BTD.dtype)
    return embeds_BTD.index_put((soft_BT,), vectors_SD[slot_N])


def nothing(slots_S: Tensor) -> Tensor:
    """For prompts of text alone."""
    raise AssertionError(f"a prompt of text alone holds slots {slots_S.tolist()}")
