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


def states(base: Backbone, prompts: Sequence[Sequence[int]], fill: Fill) -> tuple[Tensor, Tensor]:
    """B x T x D final-norm states, and the lengths B; what lies past a prompt's length means nothing."""
    ids_BT, lengths_B = pad_right(prompts)
    embeds_BTD = splice(base.model.get_input_embeddings(), ids_BT.to(base.device), fill)
    return base.model.model(inputs_embeds=embeds_BTD).last_hidden_state, lengths_B.to(base.device)


def last_states(base: Backbone, prompts: Sequence[Sequence[int]], fill: Fill) -> Tensor:
    """B x D, at each prompt's last token."""
    hidden_BTD, lengths_B = states(base, prompts, fill)
    return hidden_BTD[torch.arange(len(prompts), device=base.device), lengths_B - 1]


def packed_states(base: Backbone, groups: Sequence[Group], fill: Fill) -> Tensor:
    """B x T x D in the order of `pack`."""
    packed = pack(groups).to(base.device)
    return base.model.model(
        inputs_embeds=splice(base.model.get_input_embeddings(), packed.ids_BT, fill),
        attention_mask=packed.mask_B1TT,
        position_ids=packed.positions_BT,
    ).last_hidden_state


def branch_states(base: Backbone, groups: Sequence[Group], fill: Fill) -> list[Tensor]:
    """Per group, branches x D: the state at each branch's last token."""
    hidden_BTD = packed_states(base, groups, fill)
    return [hidden_TD[branch_ends(group)] for hidden_TD, group in zip(hidden_BTD, groups, strict=True)]


def branch_log_likelihoods(base: Backbone, groups: Sequence[Group], fill: Fill) -> list[Tensor]:
    """Per group, log P(branch | prefix) of each branch, float32. Branches are plain text: no slot is predicted."""
    hidden_BTD = packed_states(base, groups, fill)
    answers = []
    for hidden_TD, group in zip(hidden_BTD, groups, strict=True):
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
