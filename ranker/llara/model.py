"""LLaRA: a sequential model's item embeddings as behavioural tokens beside the titles (Liao et al., SIGIR'24).

Shapes:  B slates  T tokens  D hidden width  N answer tokens
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.backbone import Backbone
from ranker.behaviour.model import Behaviour
from ranker.engines.soft import batched, branch_log_likelihoods, last_states, states
from ranker.llara.batches import Slate
from ranker.llara.prompt import HybridPrompts
from ranker.packed import Group
from ranker.projector import Projector, unit_scale


def sr2llm(behaviour: Behaviour, hidden: int) -> Projector:
    """Section 3.2: two layers, GELU, as wide inside as the language model."""
    return Projector(behaviour.sizes.width, hidden, hidden, "gelu", unit_scale(behaviour.known_item_vectors()))


class LLaRA:
    def __init__(self, base: Backbone, prompts: HybridPrompts, behaviour: Behaviour, projector: Projector) -> None:
        self.base, self.prompts = base, prompts
        self.behaviour, self.projector = behaviour, projector
        self.behavioural: list[bool] = behaviour.known_items_V.tolist()
        self.none = [False] * len(self.behavioural)

    def loss(self, batch: Sequence[Slate], hybrid: bool) -> Tensor:
        """Next-token cross-entropy of the answers (equations 7 and 8), mean over their tokens."""
        prompts = [self.prompt(slate.history, slate.candidates, hybrid) for slate in batch]
        answers = [self.prompts.right(slate.candidates, slate.right) for slate in batch]
        whole = [prompt + answer[:-1] for prompt, answer in zip(prompts, answers, strict=True)]
        told = zip(states(self.base, whole, self.fill), prompts, strict=True)
        hidden_ND = torch.cat([hidden_TD[len(prompt) - 1 :] for hidden_TD, prompt in told])
        target_N = torch.tensor([token for answer in answers for token in answer], device=self.base.device)
        return F.cross_entropy(self.base.model.lm_head(hidden_ND).float(), target_N)

    def opinions(
        self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]], hybrid: bool
    ) -> list[tuple[Tensor, float]]:
        """Per user the candidates' log probabilities as answers, float32, and what all of them hold together."""
        prompts = [self.prompt(h, c, hybrid) for h, c in zip(histories, candidates, strict=True)]
        if self.prompts.answer == "letter":
            return self._letters(prompts, [len(listed) for listed in candidates])
        groups = [
            Group(prompt, [self.prompts.right(listed, place) for place in range(len(listed))])
            for prompt, listed in zip(prompts, candidates, strict=True)
        ]
        answers: list[tuple[Tensor, float]] = [(torch.empty(0), 0.0)] * len(groups)
        for rows in batched([len(group) for group in groups]):
            told = branch_log_likelihoods(self.base, [groups[row] for row in rows], self.fill)
            for row, log_C in zip(rows, told, strict=True):
                answers[row] = log_C, float(log_C.exp().sum())
        return answers

    def prompt(self, history: Sequence[int], candidates: Sequence[int], hybrid: bool) -> list[int]:
        return self.prompts.build(history, candidates, self.behavioural if hybrid else self.none)

    def fill(self, slots_S: Tensor) -> Tensor:
        """Behavioural tokens (equation 3)."""
        return self.projector(self.behaviour.item_vectors(slots_S))

    def _letters(self, prompts: Sequence[list[int]], counts: Sequence[int]) -> list[tuple[Tensor, float]]:
        answers: list[tuple[Tensor, float]] = [(torch.empty(0), 0.0)] * len(prompts)
        for rows in batched([len(prompt) for prompt in prompts]):
            states_BD = last_states(self.base, [prompts[row] for row in rows], self.fill)
            log_BV = torch.log_softmax(self.base.model.lm_head(states_BD).float(), dim=-1)
            for row, log_V in zip(rows, log_BV, strict=True):
                log_C = log_V[self.prompts.labels[: counts[row]]]
                answers[row] = log_C, float(log_C.exp().sum())
        return answers
