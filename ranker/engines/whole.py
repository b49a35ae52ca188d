"""The model's own forward, for architectures beside Llama: every prompt whole, padded, nothing reused.

Shapes:  B prompts  T tokens, right padded  D hidden width  N places read
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ranker.engines import told

if TYPE_CHECKING:
    from ranker.engines.local import Unit


class WholeLlama:
    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.inference_mode()
    def run(self, asked: Sequence[Unit], table_VD: Tensor) -> list[Tensor]:
        """Per unit the states that it asks for, in its own order."""
        return [self._states(unit, table_VD) for unit in asked]

    def _states(self, unit: Unit, table_VD: Tensor) -> Tensor:
        prompts = [told.joined(unit.head, branch) for branch in unit.branches] or [unit.head]
        embeds_BTD = pad_sequence([told.embedded([prompt], table_VD) for prompt in prompts], batch_first=True)
        hidden_BTD = self.model.model(inputs_embeds=embeds_BTD).last_hidden_state
        if not unit.inside:
            return torch.stack([hidden_BTD[row, len(prompt) - 1] for row, prompt in enumerate(prompts)])
        head = len(unit.head)
        parts = [hidden_BTD[row, head : len(prompt)] for row, prompt in enumerate(prompts)]
        return torch.cat([hidden_BTD[:1, head - 1], *parts])
