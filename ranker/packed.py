"""Several continuations of one prefix in one sequence: the prefix is computed once, no branch sees another.

[prefix | branch 1 | branch 2 | ...]: every branch takes up the positions right after the prefix, and the mask lets it
see the prefix and itself alone. So each token's state is what it would be in prefix + branch alone.

Shapes:  B groups  T tokens, right padded  D hidden width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Group:
    """Token ids, soft slots included. The prefix and every branch hold at least one token."""

    prefix: list[int]
    branches: list[list[int]]

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(branch) for branch in self.branches)


@dataclass(frozen=True, slots=True)
class Packed:
    ids_BT: Tensor
    positions_BT: Tensor
    mask_B1TT: Tensor
    """True where a token (row) sees another (column); a pad sees itself, so that no row is empty."""

    def bias(self, dtype: torch.dtype) -> Tensor:
        """The mask as what is added to the scores: torch's fused attention takes either, plain products only this."""
        bias_B1TT = torch.zeros_like(self.mask_B1TT, dtype=dtype)
        return bias_B1TT.masked_fill_(~self.mask_B1TT, torch.finfo(dtype).min)

    def to(self, device: torch.device) -> Packed:
        return Packed(self.ids_BT.to(device), self.positions_BT.to(device), self.mask_B1TT.to(device))


def pack(groups: Sequence[Group]) -> Packed:
    longest = max(len(group) for group in groups)
    ids_BT = torch.zeros(len(groups), longest, dtype=torch.long)
    positions_BT = torch.zeros(len(groups), longest, dtype=torch.long)
    owner_BT = torch.full((len(groups), longest), -1)
    for row, group in enumerate(groups):
        at = 0
        for owner, piece in enumerate([group.prefix, *group.branches]):
            end = at + len(piece)
            ids_BT[row, at:end] = torch.tensor(piece)
            first = len(group.prefix) if owner else 0
            positions_BT[row, at:end] = torch.arange(first, first + len(piece))
            owner_BT[row, at:end] = owner
            at = end
    return Packed(ids_BT, positions_BT, _mask(owner_BT))


def _mask(owner_BT: Tensor) -> Tensor:
    """owner: 0 the prefix, n branch n, -1 a pad."""
    places_T = torch.arange(owner_BT.shape[1])
    before_TT = places_T[:, None] >= places_T[None, :]
    same_BTT = owner_BT[:, :, None] == owner_BT[:, None, :]
    seen_BTT = (same_BTT | (owner_BT == 0)[:, None, :]) & before_TT
    pad_BT1 = (owner_BT == -1)[:, :, None]
    return torch.where(pad_BT1, torch.eye(owner_BT.shape[1], dtype=torch.bool), seen_BTT)[:, None]


def branch_ends(group: Group) -> list[int]:
    """Where each branch's last token stands in the packed sequence."""
    return [start + len(branch) - 1 for start, branch in zip(branch_starts(group), group.branches, strict=True)]


def branch_starts(group: Group) -> list[int]:
    starts, at = [], len(group.prefix)
    for branch in group.branches:
        starts.append(at)
        at += len(branch)
    return starts
