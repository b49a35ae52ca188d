"""The three losses against float64 loops, one forward per predicted token; the regulariser's gradient by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from ranker.backbone import Backbone
from ranker.cllm4rec.documents import Document
from ranker.cllm4rec.model import CLLM4Rec, begin, mutual_regularisation
from tests.ranker.cllm4rec import made


class Slow:
    """Next-token states in float64 from embeddings put together one by one."""

    def __init__(self, model: CLLM4Rec) -> None:
        self.llama = copy.deepcopy(model.base.model).double()
        self.vocabulary = model.vocabulary

    def state(self, ids: list[int], table_SD: Tensor) -> Tensor:
        words = self.llama.get_input_embeddings().weight
        rows = [words[i] if i < self.vocabulary else table_SD[i - self.vocabulary].double() for i in ids]
        return self.llama.model(inputs_embeds=torch.stack(rows)[None]).last_hidden_state[0, -1]

    def pull(self, model: CLLM4Rec, document: Document) -> float:
        own, other = model.embeddings.collaborative_SD.double(), model.embeddings.content_SD.double()
        return sum(0.5 * made.LAMBDA * float(((own[s] - other[s]) ** 2).sum()) for s in document.slots)


@torch.no_grad()
def test_the_l_step_is_the_papers(bpe: Backbone) -> None:
    model, documents = made.model(bpe), made.documents(bpe)
    batch = [documents.interactions(3, [5, 1, 9, 2]), documents.interactions(1, [7]), documents.interactions(0, [4, 8])]
    slow, table_SD = Slow(model), model.embeddings.collaborative_SD
    items_ID = model.embeddings.items_ID.double()
    total = 0.0
    for document in batch:
        for n, token in enumerate(document.text):
            logits_I = items_ID @ slow.state(document.prompt + document.text[:n], table_SD)
            item = token - model.vocabulary - made.USERS
            total -= float(torch.log_softmax(logits_I, 0)[item])
        total += slow.pull(model, document)
    assert float(model.l_loss(batch)) == pytest.approx(total / 3, rel=1e-5)


@torch.no_grad()
def test_the_c_step_is_the_papers(bpe: Backbone) -> None:
    model, documents = made.model(bpe), made.documents(bpe)
    batch = [documents.content(4, "Alien 3"), documents.reviewed(2, 9, "Diva Brazil Heat")]
    slow, table_SD = Slow(model), model.embeddings.content_SD
    total = 0.0
    for document in batch:
        for n, token in enumerate(document.text):
            logits_V = slow.llama.lm_head(slow.state(document.prompt + document.text[:n], table_SD))
            total -= float(torch.log_softmax(logits_V, 0)[token])
        total += slow.pull(model, document)
    assert float(model.c_loss(batch)) == pytest.approx(total / 2, rel=1e-5)


@torch.no_grad()
def test_a_collaborative_llm_of_few_layers_leaves_the_content_llm_whole(bpe: Backbone) -> None:
    whole, documents = made.model(bpe), made.documents(bpe)
    short = CLLM4Rec(bpe.shared(1), whole.embeddings, made.LAMBDA, bpe)
    told, chosen = [documents.content(4, "Alien 3")], [documents.interactions(3, [5, 1, 9, 2])]
    assert float(short.c_loss(told)) == float(whole.c_loss(told))
    assert float(short.l_loss(chosen)) == float(CLLM4Rec(bpe.shared(1), whole.embeddings, made.LAMBDA).l_loss(chosen))
    assert float(short.l_loss(chosen)) != pytest.approx(float(whole.l_loss(chosen)), rel=1e-3)


@torch.no_grad()
def test_recllm_is_the_multinomial_likelihood_of_the_held_out_items(bpe: Backbone) -> None:
    model, documents = made.model(bpe), made.documents(bpe)
    batch = [documents.recommendation(3, [5, 1, 9], [2, 7]), documents.recommendation(6, [1], [4])]
    slow, table_SD = Slow(model), model.embeddings.collaborative_SD
    total = 0.0
    for document in batch:
        logits_I = model.embeddings.items_ID.double() @ slow.state(document.prompt, table_SD)
        for token in document.text:
            total -= float(torch.log_softmax(logits_I, 0)[token - model.vocabulary - made.USERS])
        total += slow.pull(model, document)
    assert float(model.rec_loss(batch)) == pytest.approx(total / 2, rel=1e-5)


@torch.no_grad()
def test_a_user_of_whom_no_content_document_tells_is_not_pulled(bpe: Backbone) -> None:
    documents, model = made.documents(bpe), made.model(bpe)
    batch = [documents.interactions(2, [4, 7])]
    user, *items = batch[0].slots
    apart_SD = (model.embeddings.collaborative_SD - model.embeddings.content_SD).double()

    def pulled(told: list[Document]) -> float:
        model.told = {slot for document in told for slot in document.slots}
        return model.l_loss(batch).item()

    titles = [documents.content(item, "Alien") for item in range(1, made.ITEMS + 1)]
    review = documents.reviewed(2, 4, "Loud.")
    half = 0.5 * made.LAMBDA
    assert pulled(titles) - pulled([]) == pytest.approx(half * apart_SD[items].square().sum().item(), rel=1e-4)
    assert pulled([*titles, review]) - pulled(titles) == pytest.approx(
        half * apart_SD[user].square().sum().item(), rel=1e-4
    )


def test_the_regularisers_gradient_pulls_one_side_and_leaves_the_other() -> None:
    own = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    other = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    mutual_regularisation(own, other, 0.3).backward()
    assert own.grad is not None
    assert torch.allclose(own.grad, 0.3 * (own - other))
    assert other.grad is None


def test_each_step_moves_its_own_table_alone(bpe: Backbone) -> None:
    documents = made.documents(bpe)
    l_batch, c_batch = [documents.interactions(3, [5, 1])], [documents.content(4, "Alien")]
    for step, batch, moved, still in (
        ("l_loss", l_batch, "collaborative_SD", "content_SD"),
        ("rec_loss", [documents.recommendation(3, [5], [1])], "collaborative_SD", "content_SD"),
        ("c_loss", c_batch, "content_SD", "collaborative_SD"),
    ):
        model = made.model(bpe)
        getattr(model, step)(batch).backward()
        assert getattr(model.embeddings, moved).grad is not None
        assert getattr(model.embeddings, still).grad is None
    assert all(parameter.grad is None for parameter in bpe.model.parameters())


def test_slots_that_a_content_document_does_not_name_stay(bpe: Backbone) -> None:
    model = made.model(bpe)
    model.c_loss([made.documents(bpe).reviewed(2, 9, "Heat")]).backward()
    gradient_SD = model.embeddings.content_SD.grad
    assert gradient_SD is not None
    assert torch.nonzero(gradient_SD.abs().sum(1))[:, 0].tolist() == [1, made.USERS + 8]


@torch.no_grad()
def test_a_batch_equals_its_singles(bpe: Backbone) -> None:
    model, documents = made.model(bpe), made.documents(bpe)
    batch = [documents.interactions(3, [5, 1, 9, 2]), documents.interactions(1, [7])]
    singles = sum(float(model.l_loss([document])) for document in batch)
    assert float(model.l_loss(batch)) == pytest.approx(singles / 2, rel=1e-5)


def test_items_begin_at_the_mean_of_their_titles_words() -> None:
    words_VD = torch.randn(50, 6)
    made_SD = begin(words_VD, 2, [[], [3, 4], [5]], iter([[1, 2], []]), seed=0)
    items_ID = torch.stack([words_VD[[3, 4]].mean(0), words_VD[5]])
    expected_SD = torch.cat([items_ID.mean(0)[None], items_ID.mean(0)[None], items_ID])
    assert float((made_SD - expected_SD).abs().max()) < 0.6
    assert not torch.equal(made_SD[0], made_SD[1])
