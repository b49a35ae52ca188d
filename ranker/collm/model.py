"""CoLLM: a collaborative model's vectors, mapped to soft tokens of a language model (Zhang et al., arXiv 2310.19488).

Shapes:  N pairs of user and item  d width of the collaborative model  D hidden width
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.backbone import Backbone
from ranker.behaviour.model import Behaviour
from ranker.collm.prompt import Features, PairPrompts
from ranker.engines.soft import batched, branch_states, last_states
from ranker.packed import Group
from ranker.projector import Projector, unit_scale
from ranker.splice import Fill, nothing
from shared.data.pairs import Pairs, left_padded, real

INNER = 10
"""The mapping's inner width, in widths of the collaborative model (section 5.1.4)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One user and the items in question. user: from 1, or 0 for nobody known. history: oldest first."""

    user: int
    history: Sequence[int]
    items: Sequence[int]


def asked_of(pairs: Pairs, slates: Sequence[np.ndarray]) -> list[Asked]:
    """slates: rows of one user each; the first one's history is told."""
    return [
        Asked(int(pairs.users_N[rows[0]]), real(pairs.histories_NL[rows[0]]), pairs.items_N[rows].tolist())
        for rows in slates
    ]


def mapping(behaviour: Behaviour, hidden: int) -> Projector:
    """One for users and items alike (equation 4)."""
    scale = unit_scale(behaviour.known_item_vectors())
    return Projector(behaviour.sizes.width, INNER * behaviour.sizes.width, hidden, "relu", scale)


class CoLLM:
    """Yes logits of pairs. Without `behaviour` and `mapping` it is TALLRec."""

    def __init__(
        self, base: Backbone, prompts: PairPrompts, behaviour: Behaviour | None, mapping: Projector | None
    ) -> None:
        self.base, self.prompts = base, prompts
        self.behaviour, self.mapping = behaviour, mapping

    def pair_logits(self, pairs: Pairs, hybrid: bool) -> Tensor:
        """N, one whole prompt a pair: what training descends on."""
        groups, fill = self.groups(asked_of(pairs, [np.array([row]) for row in range(len(pairs))]), hybrid)
        states_ND = last_states(self.base, [group.prefix + group.branches[0] for group in groups], fill)
        return self._answers(states_ND)[:, 0]

    def slate_logits(self, pairs: Pairs, slates: Sequence[np.ndarray], hybrid: bool) -> Tensor:
        """N, slate after slate: rows of one user and history share one packed prompt."""
        groups, fill = self.groups(asked_of(pairs, slates), hybrid)
        return torch.cat([self._answers(states_CD)[:, 0] for states_CD in branch_states(self.base, groups, fill)])

    def logits(self, asked: Sequence[Asked], hybrid: bool) -> list[tuple[Tensor, Tensor]]:
        """Per user the Yes logits of the items, and the probability that Yes and No hold: one forward for all."""
        groups, fill = self.groups(asked, hybrid)
        answers: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(groups)
        for rows in batched([len(group) for group in groups]):
            for row, states_CD in zip(rows, branch_states(self.base, [groups[r] for r in rows], fill), strict=True):
                both_C2 = self._answers(states_CD)
                everything_C = torch.logsumexp(self.base.model.lm_head(states_CD).float(), dim=-1)
                mass_C = torch.exp(torch.logsumexp(both_C2, -1) - everything_C).clamp(max=1)
                answers[row] = both_C2[:, 0], mass_C
        return answers

    def groups(self, asked: Sequence[Asked], hybrid: bool) -> tuple[list[Group], Fill]:
        """Prompts as prefix and branches, and what fills their soft tokens: slot 2 n is the user of pair n, 2 n + 1
        its item. A pair of which one side has no vector is asked by text alone."""
        if not hybrid or self.behaviour is None or self.mapping is None:
            text = [Group(self.prompts.prefix(a.history), [self.prompts.branch(i) for i in a.items]) for a in asked]
            return text, nothing
        vectors_SD, knows_N = self._vectors(asked)
        vocabulary = self.base.model.get_input_embeddings().num_embeddings
        features = (
            Features(vocabulary + 2 * n, vocabulary + 2 * n + 1) if knows else None
            for n, knows in enumerate(knows_N.tolist())
        )
        return [self._group(a, features) for a in asked], lambda slots_S: self._map(vectors_SD[slots_S])

    def _group(self, asked: Asked, features: Iterator[Features | None]) -> Group:
        branches = [self.prompts.branch(item, next(features)) for item in asked.items]
        return Group(self.prompts.prefix(asked.history), branches)

    def _map(self, vectors_Sd: Tensor) -> Tensor:
        assert self.mapping is not None
        return self.mapping(vectors_Sd)

    def _vectors(self, asked: Sequence[Asked]) -> tuple[Tensor, Tensor]:
        """2 N x d, users and items in turn; and which pairs have both."""
        assert self.behaviour is not None
        counts = [len(a.items) for a in asked]
        where = self.base.device
        users_N = torch.tensor(np.repeat([a.user for a in asked], counts), device=where)
        items_N = torch.tensor([int(i) for a in asked for i in a.items], device=where)
        histories_AL = left_padded([a.history for a in asked], self.behaviour.sizes.window)
        histories_NL = torch.from_numpy(np.repeat(histories_AL, counts, axis=0)).long().to(where)
        if self.behaviour.by_item:
            user_Nd = self.behaviour.user_vectors(users_N, histories_NL, items_N)
        else:
            first_A = torch.tensor(np.cumsum([0, *counts[:-1]]), device=where)
            user_Ad = self.behaviour.user_vectors(users_N[first_A], histories_NL[first_A], items_N[first_A])
            user_Nd = user_Ad.repeat_interleave(torch.tensor(counts, device=where), dim=0)
        item_Nd = self.behaviour.item_vectors(items_N)
        knows_N = self.behaviour.knows_users(users_N, histories_NL) & self.behaviour.knows_items(items_N)
        return torch.stack([user_Nd, item_Nd], dim=1).flatten(0, 1), knows_N

    def _answers(self, states_ND: Tensor) -> Tensor:
        """N x 2: the logits of Yes and No, float32."""
        rows_2D = self.base.model.lm_head.weight[self.prompts.answers]
        return F.linear(states_ND, rows_2D).float()


def pair_loss(logits_N: Tensor, labels_N: Tensor) -> Tensor:
    """Binary cross-entropy on the Yes logit (equations 6 to 8)."""
    return F.binary_cross_entropy_with_logits(logits_N, labels_N)
