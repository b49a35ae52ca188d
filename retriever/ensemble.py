"""Several LRURecs as one: their user vectors side by side, and their items' too. A score is then the sum of theirs, the
geometric mean of their probabilities up to what is the same for all items, and one search of FAISS finds its best.

Shapes:  B users  L positions  V catalogue size + 1  D widths of all members together
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retriever.incremental import Behind, Encoder, Incremental, State
from retriever.lrurec import LRURec, LRURecConfig


class Ensemble(nn.Module):
    """What a trained LRURec is to serving, out of several of one shape."""

    def __init__(self, members: Sequence[LRURec]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.config: LRURecConfig = replace(members[0].config, width=sum(one.config.width for one in members))

    @property
    def item_VD(self) -> Tensor:
        return torch.cat([cast(LRURec, one).item_VD for one in self.members], dim=1)

    @property
    def bias_V(self) -> Tensor:
        return torch.stack([cast(LRURec, one).bias_V for one in self.members]).sum(0)

    def last(self, items_BL: Tensor) -> Tensor:
        return torch.cat([cast(LRURec, one).last(items_BL) for one in self.members], dim=1)

    def scores(self, hidden_D: Tensor) -> Tensor:
        return F.linear(hidden_D, self.item_VD, self.bias_V)


@dataclass(frozen=True, slots=True)
class EnsembleState:
    """Of all members."""

    parts: tuple[State, ...]

    @property
    def user_D(self) -> Tensor:
        return torch.cat([part.user_D for part in self.parts])

    def to_bytes(self) -> bytes:
        return b"".join(part.to_bytes() for part in self.parts)


class EnsembleEncoder(Incremental):
    def __init__(self, model: Ensemble) -> None:
        self._encoders = [Encoder(cast(LRURec, one)) for one in model.members]
        self.width = model.config.width

    def whole(self, items_L: np.ndarray) -> EnsembleState:
        return EnsembleState(tuple(one.whole(items_L) for one in self._encoders))

    def from_bytes(self, content: bytes) -> EnsembleState | None:
        parts, at = [], 0
        for one in self._encoders:
            parts.append(one.from_bytes(content[at : at + one.state_bytes]))
            at += one.state_bytes
        whole = [part for part in parts if part]
        return EnsembleState(tuple(whole)) if at == len(content) and len(whole) == len(parts) else None

    def advanced(self, behind: Sequence[Behind]) -> list[EnsembleState]:
        each = [
            encoder.advanced([replace(one, state=one.state.parts[n]) for one in behind])
            for n, encoder in enumerate(self._encoders)
        ]
        return [EnsembleState(parts) for parts in zip(*each, strict=True)]


def encoder(model: LRURec | Ensemble) -> Incremental:
    return EnsembleEncoder(model) if isinstance(model, Ensemble) else Encoder(model)
