"""Forwards of prompts that hold soft tokens: whole prompts, or the branches of a shared prefix.

Both are differentiable: training uses them as serving does.

Shapes:  B prompts or groups  T tokens, right padded  D hidden width  V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ranker.backbone import Backbone
from ranker.engines.local import BATCH_TOKENS, batches, pad_right
from ranker.packed import Group, branch_ends, branch_starts, pack
from ranker.splice import Fill, splice

PADDING = 1.15
"""The longest of one forward over the shortest."""


def states(base: Backbone, prompts: Sequence[Sequence[int]], fill: Fill) -> list[Tensor]:
    """Per prompt its final-norm states, T x D."""
    answers: list[Tensor] = [torch.empty(0)] * len(prompts)
    for rows in alike([len(prompt) for prompt in prompts], base.device):
        ids_BT, lengths_B = pad_right([prompts[row] for row in rows])
        embeds_BTD = splice(base.model.get_input_embeddings(), ids_BT.to(base.device), fill)
        hidden_BTD = base.model.model(inputs_embeds=embeds_BTD).last_hidden_state
        for row, hidden_TD, length in zip(rows, hidden_BTD, lengths_B.tolist(), strict=True):
            answers[row] = hidden_TD[:length]
    return answers


def last_states(base: Backbone, prompts: Sequence[Sequence[int]], fill: Fill) -> Tensor:
    """B x D, at each prompt's last token."""
    return torch.stack([hidden_TD[-1] for hidden_TD in states(base, prompts, fill)])


def packed_states(base: Backbone, groups: Sequence[Group], fill: Fill) -> list[Tensor]:
    """Per group its states in the order of `pack`; what lies past a group's length means nothing."""
    answers: list[Tensor] = [torch.empty(0)] * len(groups)
    for rows in alike([len(group) for group in groups], base.device):
        packed = pack([groups[row] for row in rows]).to(base.device)
        hidden_BTD = base.model.model(
            inputs_embeds=splice(base.model.get_input_embeddings(), packed.ids_BT, fill),
            attention_mask=packed.bias(base.dtype),
            position_ids=packed.positions_BT,
        ).last_hidden_state
        for row, hidden_TD in zip(rows, hidden_BTD, strict=True):
            answers[row] = hidden_TD
    return answers


def branch_states(base: Backbone, groups: Sequence[Group], fill: Fill) -> list[Tensor]:
    """Per group, branches x D: the state at each branch's last token."""
    packed = packed_states(base, groups, fill)
    return [hidden_TD[branch_ends(group)] for hidden_TD, group in zip(packed, groups, strict=True)]


def branch_log_likelihoods(base: Backbone, groups: Sequence[Group], fill: Fill) -> list[Tensor]:
    """Per group, log P(branch | prefix) of each branch, float32. Branches are plain text: no slot is predicted."""
    answers = []
    for hidden_TD, group in zip(packed_states(base, groups, fill), groups, strict=True):
        # A branch's first token is told by the prefix's last state, each later one by the token before it.
        before = [
            [len(group.prefix) - 1, *range(start, start + len(branch) - 1)]
            for start, branch in zip(branch_starts(group), group.branches, strict=True)
        ]
        flat = [place for places in before for place in places]
        tokens_N = torch.tensor([t for branch in group.branches for t in branch], device=base.device)
        log_NV = torch.log_softmax(base.model.lm_head(hidden_TD[flat]).float(), dim=-1)
        told_N = log_NV.gather(1, tokens_N[:, None])[:, 0]
        answers.append(torch.stack([piece.sum() for piece in told_N.split([len(b) for b in group.branches])]))
    return answers


def batched(lengths: Sequence[int]) -> Iterator[list[int]]:
    return batches(lengths, BATCH_TOKENS)


def alike(lengths: Sequence[int], device: torch.device) -> Iterator[list[int]]:
    """Rows of like lengths, for one forward each. A CPU computes padding at full price and a small forward as fast as a
    large one; anywhere else all rows go at once."""
    parts: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if parts and (device.type != "cpu" or lengths[row] <= PADDING * lengths[parts[-1][0]]):
            parts[-1].append(row)
        else:
            parts.append([row])
    yield from parts
