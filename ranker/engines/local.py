"""The in-process engine: one torch forward for a batch of prompts, the label rows of the LM head, nothing else.

Shapes:  B prompts  T tokens, right padded  D hidden width  K labels  V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.backbone import Backbone

BATCH_TOKENS = 8192
"""Tokens of one forward, padding included: enough to fill two cores or a GPU, small enough for any memory."""


@dataclass(frozen=True, slots=True)
class LabelScores:
    """logits_BK: raw logits of the labels, float32. mass_B: the probability that the labels hold together."""

    logits_BK: np.ndarray
    mass_B: np.ndarray


def pad_right(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids B x T and the lengths B.

    Padded on the right under causal attention, so that no real token ever sees a pad: no mask is needed, the
    fast causal kernel serves any batch, and a batch equals its singles.
    """
    lengths_B = torch.tensor([len(p) for p in prompts])
    ids_BT = torch.zeros(len(prompts), int(lengths_B.max()), dtype=torch.long)
    for row, prompt in zip(ids_BT, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    return ids_BT, lengths_B


def last_hidden(model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """B x D: the final-norm state at each prompt's last token."""
    ids_BT, lengths_B = pad_right(prompts)
    hidden_BTD = model.model(input_ids=ids_BT.to(device)).last_hidden_state
    return hidden_BTD[torch.arange(len(prompts)), lengths_B - 1]


class LocalEngine:
    """One model on one device. Not thread-safe: the ranking service gives it one worker."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    @torch.inference_mode()
    def label_logits(self, prompts: Sequence[Sequence[int]], labels: Sequence[int]) -> LabelScores:
        """Answers in the prompts' order. labels: K token ids."""
        logits_BK = np.zeros((len(prompts), len(labels)), dtype=np.float32)
        mass_B = np.zeros(len(prompts), dtype=np.float32)
        head = self.backbone.model.lm_head
        for rows in batches([len(p) for p in prompts], BATCH_TOKENS):
            hidden_BD = last_hidden(self.backbone.model, [prompts[r] for r in rows], self.backbone.device)
            labels_BK = F.linear(hidden_BD.float(), head.weight[list(labels)].float())
            # The whole vocabulary costs 0.05 % of the forward, and tells how much of it the labels hold.
            everything_B = torch.logsumexp(head(hidden_BD).float(), dim=-1)
            logits_BK[rows] = labels_BK.cpu().numpy()
            mass_B[rows] = torch.exp(torch.logsumexp(labels_BK, -1) - everything_B).clamp(max=1.0).cpu().numpy()
        return LabelScores(logits_BK, mass_B)


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Rows grouped by length, so that a batch holds little padding and at most `budget` tokens (or one prompt)."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[row] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
