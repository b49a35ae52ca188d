"""LLaRA: a sequential model's item embeddings as behavioural tokens beside the titles (Liao et al., SIGIR'24).

Shapes:  B slates  T tokens  D hidden width  N answer tokens  C candidates
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
from shared.data.pairs import left_padded


def sr2llm(behaviour: Behaviour, hidden: int) -> Projector:
    """Section 3.2: two layers, GELU, as wide inside as the language model."""
    return Projector(behaviour.sizes.width, hidden, hidden, "gelu", unit_scale(behaviour.known_item_vectors()))


class LLaRA:
    def __init__(
        self,
        base: Backbone,
        prompts: HybridPrompts,
        behaviour: Behaviour,
        projector: Projector,
        listwise: float = 0.0,
        teacher: float = 0.0,
    ) -> None:
        """listwise, teacher: of the loss over all candidates' titles, which the paper has not (recipes.py)."""
        self.base, self.prompts, self.listwise, self.teacher = base, prompts, listwise, teacher
        self.behaviour, self.projector = behaviour, projector
        self.behavioural: list[bool] = behaviour.known_items_V.tolist()
        self.none = [False] * len(self.behavioural)

    def loss(self, batch: Sequence[Slate], hybrid: bool) -> Tensor:
        """Next-token cross-entropy of the answers (equations 7 and 8), mean over their tokens; and with `listwise` so
        much of the cross-entropy among the candidates' titles, mean over slates."""
        if self.listwise:
            return self._listwise_loss(batch, hybrid)
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
        if self.prompts.answer == "letter":
            prompts = [self.prompt(h, c, hybrid) for h, c in zip(histories, candidates, strict=True)]
            return self._letters(prompts, [len(listed) for listed in candidates])
        groups = [self.titles(h, c, hybrid) for h, c in zip(histories, candidates, strict=True)]
        answers: list[tuple[Tensor, float]] = [(torch.empty(0), 0.0)] * len(groups)
        for rows in batched([len(group) for group in groups]):
            told = branch_log_likelihoods(self.base, [groups[row] for row in rows], self.fill)
            for row, log_C in zip(rows, told, strict=True):
                answers[row] = log_C, float(log_C.exp().sum())
        return answers

    def prompt(self, history: Sequence[int], candidates: Sequence[int], hybrid: bool) -> list[int]:
        return self.prompts.build(history, candidates, self.behavioural if hybrid else self.none)

    def titles(self, history: Sequence[int], candidates: Sequence[int], hybrid: bool) -> Group:
        """The prompt, and each candidate's title as an answer."""
        answers = [self.prompts.right(candidates, place) for place in range(len(candidates))]
        return Group(self.prompt(history, candidates, hybrid), answers)

    @torch.no_grad()
    def expected(self, slate: Slate) -> Tensor:
        """C, of sum 1: the sequential model's softmax over the candidates."""
        where = self.behaviour.known_items_V.device
        history_1L = torch.from_numpy(left_padded([slate.history], self.behaviour.sizes.window)).long().to(where)
        nobody_1 = torch.zeros(1, dtype=torch.long, device=where)
        item_Cd = self.behaviour.item_vectors(torch.tensor(slate.candidates, device=where))
        return torch.softmax(item_Cd @ self.behaviour.user_vectors(nobody_1, history_1L, nobody_1)[0], dim=-1)

    def fill(self, slots_S: Tensor) -> Tensor:
        """Behavioural tokens (equation 3)."""
        return self.projector(self.behaviour.item_vectors(slots_S))

    def _listwise_loss(self, batch: Sequence[Slate], hybrid: bool) -> Tensor:
        groups = [self.titles(slate.history, slate.candidates, hybrid) for slate in batch]
        told = branch_log_likelihoods(self.base, groups, self.fill)
        words = sum(len(group.branches[slate.right]) for group, slate in zip(groups, batch, strict=True))
        right = -torch.stack([log_C[slate.right] for log_C, slate in zip(told, batch, strict=True)]).sum() / words
        among = []
        for log_C, slate in zip(told, batch, strict=True):
            target_C = self.teacher * self.expected(slate).to(log_C)
            target_C[slate.right] += 1 - self.teacher
            among.append(-(target_C * torch.log_softmax(log_C, dim=-1)).sum())
        return right + self.listwise * torch.stack(among).mean()

    def _letters(self, prompts: Sequence[list[int]], counts: Sequence[int]) -> list[tuple[Tensor, float]]:
        answers: list[tuple[Tensor, float]] = [(torch.empty(0), 0.0)] * len(prompts)
        for rows in batched([len(prompt) for prompt in prompts]):
            states_BD = last_states(self.base, [prompts[row] for row in rows], self.fill)
            log_BV = torch.log_softmax(self.base.model.lm_head(states_BD).float(), dim=-1)
            for row, log_V in zip(rows, log_BV, strict=True):
                log_C = log_V[self.prompts.labels[: counts[row]]]
                answers[row] = log_C, float(log_C.exp().sum())
        return answers
