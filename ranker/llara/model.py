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
from ranker.engines.soft import batched, branch_log_likelihoods, last_states, packed_states, states
from ranker.llara.batches import Binding, Slate
from ranker.llara.prompt import HybridPrompts
from ranker.packed import Group
from ranker.projector import Projector, unit_scale
from ranker.splice import Fill
from shared.data.pairs import left_padded


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
        prompts = [self.prompt(slate.history, slate.candidates, hybrid, n) for n, slate in enumerate(batch)]
        answers = [self.prompts.right(slate.candidates, slate.right) for slate in batch]
        whole = [prompt + answer[:-1] for prompt, answer in zip(prompts, answers, strict=True)]
        fill = self.filling([slate.history for slate in batch])
        told = zip(states(self.base, whole, fill), prompts, strict=True)
        hidden_ND = torch.cat([hidden_TD[len(prompt) - 1 :] for hidden_TD, prompt in told])
        return self._cross_entropy(hidden_ND, answers)

    def binding_loss(self, batch: Sequence[Binding]) -> Tensor:
        """The same loss of many users' answers over the same candidates: a forward for each slate, not each user."""
        groups, answers, first = [], [], 0
        for one in batch:
            prefix, branches = self.prompts.binding(one.candidates, self.behavioural, one.asked, first)
            groups.append(Group(prefix, branches))
            answers.append([t for place in one.asked for t in self.prompts.right(one.candidates, place)])
            first += len(one.asked)
        fill = self.filling([history for one in batch for history in one.histories])
        told = zip(packed_states(self.base, groups, fill), groups, strict=True)
        hidden_ND = torch.cat([hidden_TD[len(group.prefix) : len(group)] for hidden_TD, group in told])
        return self._cross_entropy(hidden_ND, answers)

    def _cross_entropy(self, hidden_ND: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
        """hidden_ND: the state before each token of the answers, one after another."""
        target_N = torch.tensor([token for answer in answers for token in answer], device=self.base.device)
        return F.cross_entropy(self.base.model.lm_head(hidden_ND).float(), target_N)

    def opinions(
        self, histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]], hybrid: bool
    ) -> list[tuple[Tensor, float]]:
        """Per user the candidates' log probabilities as answers, float32, and what all of them hold together."""
        asked = zip(histories, candidates, strict=True)
        prompts, fill = [self.prompt(h, c, hybrid, n) for n, (h, c) in enumerate(asked)], self.filling(histories)
        if self.prompts.answer == "letter":
            return self._letters(prompts, [len(listed) for listed in candidates], fill)
        groups = [
            Group(prompt, [self.prompts.right(listed, place) for place in range(len(listed))])
            for prompt, listed in zip(prompts, candidates, strict=True)
        ]
        answers: list[tuple[Tensor, float]] = [(torch.empty(0), 0.0)] * len(groups)
        for rows in batched([len(group) for group in groups]):
            told = branch_log_likelihoods(self.base, [groups[row] for row in rows], fill)
            for row, log_C in zip(rows, told, strict=True):
                answers[row] = log_C, float(log_C.exp().sum())
        return answers

    def prompt(self, history: Sequence[int], candidates: Sequence[int], hybrid: bool, number: int = 0) -> list[int]:
        """number: of the user among those whose histories `filling` is given."""
        return self.prompts.build(history, candidates, self.behavioural if hybrid else self.none, number)

    def filling(self, histories: Sequence[Sequence[int]]) -> Fill:
        """Behavioural tokens (equation 3): of items, and behind these of the users with as much of these histories as
        the prompt tells."""
        items = len(self.prompts.titles)

        def fill(slots_S: Tensor) -> Tensor:
            users_S = slots_S >= items
            vectors_SD = self.behaviour.item_vectors(slots_S.masked_fill(users_S, 0))
            if users_S.any():
                asked = [self.prompts.kept(histories[slot - items]) for slot in slots_S[users_S].tolist()]
                vectors_SD = vectors_SD.index_put((users_S,), self._users(asked).to(vectors_SD.dtype))
            return self.projector(vectors_SD)

        return fill

    @torch.no_grad()
    def _users(self, histories: Sequence[Sequence[int]]) -> Tensor:
        """As long as the items' vectors are on average: the projector was made for those."""
        device = self.behaviour.known_items_V.device
        histories_BL = torch.from_numpy(left_padded(histories, self.behaviour.sizes.window)).long().to(device)
        nobody_B = torch.zeros(len(histories), dtype=torch.long, device=device)
        users_BD = self.behaviour.user_vectors(nobody_B, histories_BL, nobody_B)
        long = self.behaviour.known_item_vectors().norm(dim=1).mean()
        return users_BD * (long / users_BD.norm(dim=1, keepdim=True).clamp(min=1e-8))

    def _letters(self, prompts: Sequence[list[int]], counts: Sequence[int], fill: Fill) -> list[tuple[Tensor, float]]:
        answers: list[tuple[Tensor, float]] = [(torch.empty(0), 0.0)] * len(prompts)
        for rows in batched([len(prompt) for prompt in prompts]):
            states_BD = last_states(self.base, [prompts[row] for row in rows], fill)
            log_BV = torch.log_softmax(self.base.model.lm_head(states_BD).float(), dim=-1)
            for row, log_V in zip(rows, log_BV, strict=True):
                log_C = log_V[self.prompts.labels[: counts[row]]]
                answers[row] = log_C, float(log_C.exp().sum())
        return answers
