"""CLLM4Rec: a language model with ID tokens of users and items, each with a collaborative and a content embedding
(Zhu et al., WWW'24, arXiv 2311.01343). The language model and its vocabulary stay frozen; the two tables learn.

Shapes:  B documents  T tokens  D hidden width  S slots = U users + I items  N predicted places
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.backbone import Backbone
from ranker.cllm4rec.documents import Document
from ranker.engines.soft import last_states, states


class Embeddings(nn.Module):
    """collaborative_SD is z^l, content_SD z^c of the paper; users first."""

    def __init__(self, users: int, begin_SD: Tensor) -> None:
        super().__init__()
        self.users = users
        self.collaborative_SD = nn.Parameter(begin_SD.clone())
        self.content_SD = nn.Parameter(begin_SD.clone())

    @property
    def items_ID(self) -> Tensor:
        """The item head is tied to the items' collaborative embeddings (equation 5)."""
        return self.collaborative_SD[self.users :]


class CLLM4Rec:
    """teller: the content LLM, where `base` is cut to its first layers, which the head over words cannot read.

    told: the slots that content documents name; None for all. Of any other slot nothing says what its content embedding
    is: the best one is its collaborative embedding, and there is no pull. So with users who have written no review.
    """

    def __init__(
        self,
        base: Backbone,
        embeddings: Embeddings,
        lambda_c: float,
        teller: Backbone | None = None,
        told: Iterable[int] | None = None,
    ) -> None:
        self.base, self.embeddings, self.lambda_c = base, embeddings, lambda_c
        self.teller, self.told = teller or base, None if told is None else set(told)
        self.vocabulary: int = base.model.get_input_embeddings().num_embeddings

    def l_loss(self, batch: Sequence[Document]) -> Tensor:
        """L-step (equation 11), mean over documents: cross-entropy over the items at every item's place, and the
        pull towards the content embeddings, which stay."""
        own, other = self.embeddings.collaborative_SD, self.embeddings.content_SD
        hidden_ND, target_N = _predicted(self.base, batch, own)
        logits_NI = F.linear(hidden_ND.float(), self.embeddings.items_ID.float())
        told = F.cross_entropy(logits_NI, target_N - self.vocabulary - self.embeddings.users, reduction="sum")
        return (told + self._pull(batch, own, other)) / len(batch)

    def c_loss(self, batch: Sequence[Document]) -> Tensor:
        """C-step (equation 12): cross-entropy over the vocabulary at every word's place, roles swapped."""
        own, other = self.embeddings.content_SD, self.embeddings.collaborative_SD
        hidden_ND, target_N = _predicted(self.teller, batch, own)
        told = F.cross_entropy(self.teller.model.lm_head(hidden_ND).float(), target_N, reduction="sum")
        return (told + self._pull(batch, own, other)) / len(batch)

    def rec_loss(self, batch: Sequence[Document]) -> Tensor:
        """RecLLM (equation 14): the multinomial likelihood of the held-out items out of the prompt's last state. The
        pull also holds the held-out items."""
        own, other = self.embeddings.collaborative_SD, self.embeddings.content_SD
        log_BI = torch.log_softmax(self.item_logits(self.user_vectors([d.prompt for d in batch])), dim=-1)
        row_N = torch.tensor([row for row, d in enumerate(batch) for _ in d.text], device=log_BI.device)
        held_N = torch.tensor([t for d in batch for t in d.text], device=log_BI.device)
        told = -log_BI[row_N, held_N - self.vocabulary - self.embeddings.users].sum()
        return (told + self._pull(batch, own, other)) / len(batch)

    def user_vectors(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """B x D, float32: all that a recommendation needs of the language model."""
        collaborative_SD = self.embeddings.collaborative_SD
        return last_states(self.base, prompts, lambda slots_S: collaborative_SD[slots_S]).float()

    def item_logits(self, vectors_BD: Tensor) -> Tensor:
        """B x I, of all items: item i stands in column i - 1."""
        return F.linear(vectors_BD, self.embeddings.items_ID.float())

    def _pull(self, batch: Sequence[Document], own_SD: Tensor, other_SD: Tensor) -> Tensor:
        slots = [slot for d in batch for slot in d.slots if self.told is None or slot in self.told]
        slots_N = torch.tensor(slots, dtype=torch.long, device=own_SD.device)
        return mutual_regularisation(own_SD[slots_N], other_SD[slots_N], self.lambda_c)


def _predicted(base: Backbone, batch: Sequence[Document], table_SD: Tensor) -> tuple[Tensor, Tensor]:
    """The states that predict the documents' texts, and the texts: N x D, N."""
    told = states(base, [d.prompt + d.text[:-1] for d in batch], lambda slots_S: table_SD[slots_S])
    hidden_ND = torch.cat([hidden_TD[len(d.prompt) - 1 :] for hidden_TD, d in zip(told, batch, strict=True)])
    return hidden_ND, torch.tensor([t for d in batch for t in d.text], device=base.device)


def mutual_regularisation(own_ND: Tensor, other_ND: Tensor, lambda_c: float) -> Tensor:
    """lambda_c / 2 times the squared distance; the other side is a constant (equations 11 and 12)."""
    return 0.5 * lambda_c * (own_ND - other_ND.detach()).float().square().sum()


def begin(
    vocabulary_VD: Tensor, users: int, titles: Sequence[Sequence[int]], histories: Iterator[Sequence[int]], seed: int
) -> Tensor:
    """S x D: items at the mean of their titles' words, users at the mean of their items, with a little noise so that
    no two are the same. titles: token ids by dense index, PAD's first."""
    noise_SD = 0.1 * random(vocabulary_VD, users + len(titles) - 1, seed)
    items_ID = torch.stack([vocabulary_VD[list(ids)].float().mean(0) for ids in titles[1:]])
    centre_D = items_ID.mean(0)
    rows = [items_ID[[i - 1 for i in items]].mean(0) if len(items) else centre_D for items in histories]
    return torch.cat([torch.stack(rows), items_ID]) + noise_SD


def random(vocabulary_VD: Tensor, slots: int, seed: int) -> Tensor:
    """Normal, as wide as the vocabulary's own embeddings."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(slots, vocabulary_VD.shape[1], generator=generator) * float(vocabulary_VD.float().std())
