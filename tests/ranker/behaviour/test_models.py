"""Small recommenders: they learn what can be learnt, padding changes nothing, and their files load."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ranker.behaviour import lrurec
from ranker.behaviour.fit import FitConfig, fit_nexts, fit_pairs, next_mrr, next_scores, pair_auc, pair_logits, select
from ranker.behaviour.lightgcn import LightGCN
from ranker.behaviour.model import Behaviour, Sizes
from ranker.behaviour.models import FILE, MODELS, load, save
from ranker.behaviour.svdpp import SWIFT, SVDpp
from ranker.fit import overwrite
from ranker.weights import Precision, settle
from retriever import retrieve
from retriever.lrurec import LRURec as Original
from retriever.lrurec import LRURecConfig
from retriever.recipes import TrainConfig
from retriever.train import train
from shared import metrics
from shared.artifact import MANIFEST, Manifest, seal
from shared.catalog import PAD
from shared.data.llara import windows
from shared.data.pairs import Nexts, Pairs, left_padded
from shared.errors import BadArtifact, CatalogMismatch
from tests.ranker import tiny

CPU = torch.device("cpu")
ITEMS, WINDOW = 24, 6
BY_HISTORY = ("sasrec", "gru4rec", "caser", "lrurec")
FITTED = FitConfig(batch=64, learning_rate=1e-2, epochs=40, patience=40)


def sizes(width: int = 16, users: int = 40) -> Sizes:
    return Sizes(users=users, items=ITEMS, width=width, window=WINDOW)


def orderly() -> Nexts:
    """Whoever has item i takes item i + 1 next, round the end."""
    return windows([(start + np.arange(12)) % ITEMS + 1 for start in range(ITEMS)], WINDOW, 3)


def tastes(seed: int, rows: int = 3000) -> Pairs:
    """Even users like even items, odd users odd ones."""
    rng = np.random.default_rng(seed)
    users_N, items_N = rng.integers(1, 41, rows), rng.integers(1, ITEMS + 1, rows)
    liked = [[i for i in rng.permutation(ITEMS) + 1 if i % 2 == u % 2][:WINDOW] for u in users_N]
    labels_N = (users_N % 2 == items_N % 2).astype(np.float32)
    return Pairs(users_N, items_N, labels_N, left_padded(liked, WINDOW), np.ones(rows, dtype=bool))


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "caser"])
def test_order_is_learnt(name: str) -> None:
    model, mrr = fit_nexts(name, sizes(), orderly(), orderly(), FITTED, CPU)
    scores_BV = next_scores(model, torch.from_numpy(orderly().histories_NL).long())[:, 1:]
    assert float((scores_BV.argmax(1).numpy() + 1 == orderly().nexts_N).mean()) > 0.9
    assert mrr == next_mrr(model, orderly())


def test_what_diverged_is_never_the_best() -> None:
    """Nothing is above a NaN, nor is it above anything."""

    broken = MODELS["gru4rec"](sizes()).eval()
    for weight in broken.parameters():
        weight.data.fill_(float("nan"))
    assert next_mrr(broken, orderly()) < 0.1
    scores_N = np.full(500, np.nan)
    assert math.isnan(metrics.auc(tastes(1, 500).labels_N, scores_N))
    runs = iter([(broken, float("-inf")), (MODELS["gru4rec"](sizes()), 0.2)])
    assert select(lambda config: next(runs), FITTED, (0.1, 0.01)).weight_decay == 0.01
    model, auc = fit_pairs("mf", sizes(), tastes(0, 200), tastes(1, 500), replace(FITTED, learning_rate=1e30), CPU)
    assert auc == float("-inf") or np.isfinite(pair_logits(model, tastes(1, 500))).all()


@pytest.mark.parametrize("name", ["mf", "svdpp", "lightgcn", "sasrec", "din"])
def test_taste_is_learnt(name: str) -> None:
    model, auc = fit_pairs(name, sizes(), tastes(0), tastes(1, 500), FITTED, CPU)
    assert auc > 0.9
    assert auc == pair_auc(model, tastes(1, 500))


def test_noise_teaches_nothing() -> None:
    noisy = tastes(0)
    noisy.labels_N[:] = np.random.default_rng(9).integers(0, 2, len(noisy))
    fresh = tastes(2, 2000)
    fresh.labels_N[:] = np.random.default_rng(8).integers(0, 2, len(fresh))
    model, _ = fit_pairs("mf", sizes(), noisy, fresh, FITTED, CPU)
    assert abs(pair_auc(model, fresh) - 0.5) < 0.05


@pytest.mark.parametrize("name", BY_HISTORY)
def test_padding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name](sizes()).eval()
    short, padded = torch.tensor([[3, 7, 5, 9]]), torch.tensor([[0, 0, 3, 7, 5, 9]])
    nobody = torch.zeros(1, dtype=torch.long)
    one, other = (model.user_vectors(nobody, h, nobody) for h in (short, padded))
    assert torch.allclose(one, other, atol=1e-6)
    assert torch.isfinite(model.user_vectors(nobody, torch.zeros(1, WINDOW, dtype=torch.long), nobody)).all()


@pytest.mark.parametrize("name", BY_HISTORY)
def test_a_batch_equals_its_singles(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name](sizes()).eval()
    histories_BL = torch.from_numpy(orderly().histories_NL[:5]).long()
    histories_BL[2, :4] = 0
    nobody_B = torch.zeros(5, dtype=torch.long)
    together_BD = model.user_vectors(nobody_B, histories_BL, nobody_B)
    for row in range(5):
        alone_D = model.user_vectors(nobody_B[:1], histories_BL[row : row + 1], nobody_B[:1])[0]
        assert torch.allclose(together_BD[row], alone_D, atol=1e-6)


def test_lightgcn_is_the_mean_over_layers_of_a_dense_float64_graph() -> None:
    edges = [(1, 2), (1, 3), (2, 3), (4, 1)]
    model = LightGCN(Sizes(users=4, items=5, width=3, window=1, edges=4), torch.tensor(edges).T).eval()
    nodes = 4 + 5 + 2
    adjacency = np.zeros((nodes, nodes))
    for user, item in edges:
        adjacency[user, 5 + item] = adjacency[5 + item, user] = 1
    degree = np.maximum(adjacency.sum(1), 1)
    graph = adjacency / np.sqrt(degree[:, None] * degree[None, :])
    first = model.nodes.weight.detach().double().numpy()
    expected = (first + graph @ first + graph @ graph @ first) / 3
    with torch.no_grad():
        np.testing.assert_allclose(model.vectors().numpy(), expected, atol=1e-6)
        assert model.vectors() is model.vectors()
    items_N = torch.tensor([1, 5])
    np.testing.assert_allclose(model.item_vectors(items_N).detach(), expected[[6, 10]], atol=1e-6)
    # Training puts the best weights back after its last validation: what was kept of others must go.
    overwrite(model.nodes.weight, 2 * model.nodes.weight.detach())
    with torch.no_grad():
        np.testing.assert_allclose(model.vectors().numpy(), 2 * expected, atol=1e-6)
        settle(model, "float16")
        assert not np.array_equal(model.vectors().numpy(), (2 * expected).astype(np.float32))
        np.testing.assert_allclose(model.vectors().numpy(), 2 * expected, atol=1e-3)


def test_svdpp_is_biases_and_a_product_with_what_the_user_is_and_has() -> None:
    pairs = tastes(0, 200)
    pairs.histories_NL[:, :2] = PAD
    pairs.histories_NL[0] = PAD
    model, _ = fit_pairs("svdpp", sizes(), pairs, pairs, FitConfig(epochs=3), CPU)
    assert isinstance(model, SVDpp)
    users, items, implicit = (t.weight.double().numpy() for t in (model.users, model.items, model.implicit))
    expected = []
    for user, item, history in zip(pairs.users_N, pairs.items_N, pairs.histories_NL, strict=True):
        own = [j for j in history.tolist() if j != PAD]
        vector = users[user, :-2] + sum((implicit[j] for j in own), np.zeros(14)) / math.sqrt(max(1, len(own)))
        biases = float(model.mean) + users[user, -1] + items[item, -1]
        expected.append(SWIFT * biases + float(vector @ items[item, :-2]))
    np.testing.assert_allclose(pair_logits(model, pairs), expected, atol=1e-6)
    assert np.abs(implicit).max() > 0
    assert np.abs(users[1:]).max() > 0


def test_svdpp_knows_a_user_by_the_history_too_and_says_of_others_what_is_said_of_the_item() -> None:
    seen = tastes(0)
    known = seen.take(np.flatnonzero(seen.users_N <= 30))
    model, _ = fit_pairs("svdpp", sizes(), known, known, FitConfig(epochs=2), CPU)
    users_B, histories_BL = torch.tensor([30, 35, 35, 0]), torch.tensor([[0, 0], [0, 3], [0, 0], [0, 0]])
    assert model.knows_users(users_B, histories_BL).tolist() == [True, True, False, False]
    item_B = torch.tensor([5, 5])
    stranger, nobody = model.logits(torch.tensor([35, 0]), histories_BL[2:], item_B)
    assert stranger == nobody != 0


def test_dins_user_depends_on_the_item_that_is_asked_about() -> None:
    torch.manual_seed(0)
    model = MODELS["din"](sizes()).eval()
    history_BL, one, other = torch.tensor([[0, 1, 2]]), torch.tensor([4]), torch.tensor([5])
    assert not torch.allclose(model.user_vectors(one, history_BL, one), model.user_vectors(one, history_BL, other))


def test_lrurec_out_of_its_file_is_the_retrievers_own(tmp_path: Path) -> None:
    torch.manual_seed(3)
    original = Original(LRURecConfig(items=ITEMS, width=16, state=24, blocks=3)).eval()
    nn.init.normal_(original.bias_V)
    model = lrurec.LRURec(replace(sizes(), state=24, blocks=3))
    model.load_state_dict(original.state_dict(), strict=False)
    histories_BL = torch.from_numpy(orderly().histories_NL[:4]).long()
    histories_BL[1, :3] = 0
    nobody_B = torch.zeros(4, dtype=torch.long)
    with torch.no_grad():
        expected_BD = original.last(histories_BL)
        assert torch.allclose(model.user_vectors(nobody_B, histories_BL, nobody_B), expected_BD, atol=1e-5)
        items_B = torch.tensor([1, 2, 3, 4])
        scores_BV = original.scores(expected_BD)
        logits_B = scores_BV[torch.arange(4), items_B]
        assert torch.allclose(model.logits(nobody_B, histories_BL, items_B), logits_B, atol=1e-5)
        assert torch.allclose(next_scores(model, histories_BL)[:, 1:], scores_BV[:, 1:], atol=1e-5)


def test_a_retrievers_artifact_is_read_with_what_it_was_trained_on(tmp_path: Path) -> None:
    small = TrainConfig(width=16, state=16, blocks=1, batch=8, window=WINDOW, epochs=1, validate_every=5)
    train(tiny.DATA, small, tmp_path / "retriever")
    model = lrurec.read(tmp_path / "retriever", tiny.DATA.catalog)
    retriever = retrieve.load(tmp_path / "retriever", tiny.DATA.catalog).retriever
    histories = [[3, 4, 5], [9, 10, 11, 12, 13, 14, 15, 16]]
    with torch.no_grad():
        nobody_B = torch.zeros(2, dtype=torch.long)
        users_BD = model.user_vectors(nobody_B, torch.from_numpy(left_padded(histories, WINDOW)).long(), nobody_B)
    np.testing.assert_allclose(users_BD, retriever.encode(histories), atol=1e-5)
    seen = {int(item) for sequence in tiny.DATA.sequences() for item in sequence[:-2]}
    assert set(torch.nonzero(model.known_items_V)[:, 0].tolist()) == seen
    with pytest.raises(CatalogMismatch):
        lrurec.read(tmp_path / "retriever", tiny.catalog(7))
    file = tmp_path / "retriever" / "lrurec.safetensors"
    save_file({name: weight.clone() for name, weight in load_file(file).items() if name != "bias_V"}, file)
    seal(tmp_path / "retriever", Manifest.model_validate_json((tmp_path / "retriever" / MANIFEST).read_bytes()))
    with pytest.raises(BadArtifact, match="lacks the weights bias_V"):
        lrurec.read(tmp_path / "retriever", tiny.DATA.catalog)


@pytest.mark.parametrize("name", list(MODELS))
def test_what_is_saved_loads_to_the_same_scores(name: str, tmp_path: Path) -> None:
    pairs = tastes(0, 50)
    model: Behaviour
    if name in ("mf", "svdpp", "lightgcn", "sasrec", "din"):
        model, _ = fit_pairs(name, sizes(), pairs, pairs, FitConfig(epochs=1), CPU)
    else:
        model = MODELS[name](sizes()).eval()
    again = load(name, save(model, tmp_path), tmp_path)
    np.testing.assert_array_equal(pair_logits(again, pairs), pair_logits(model, pairs))
    assert torch.equal(again.known_items_V, model.known_items_V)


def test_validation_chooses_the_weight_decay() -> None:
    model = MODELS["mf"](sizes())
    tried: list[float] = []

    def fit(config: FitConfig) -> tuple[Behaviour, float]:
        tried.append(config.weight_decay)
        return model, {1e-3: 0.6, 1e-2: 0.8, 1e-1: 0.7}[config.weight_decay]

    chosen = select(fit, FitConfig(), (1e-3, 1e-2, 1e-1))
    assert (chosen.model, chosen.score, chosen.weight_decay) == (model, 0.8, 1e-2)
    assert tried == [1e-3, 1e-2, 1e-1]


def test_rows_that_training_never_saw_are_unknown() -> None:
    seen = tastes(0)
    known = seen.take(np.flatnonzero((seen.items_N <= 20) & (seen.users_N <= 30)))
    for name, user_known in (("mf", False), ("sasrec", True)):
        model, _ = fit_pairs(name, sizes(), known, known, FitConfig(epochs=1), CPU)
        assert model.knows_items(torch.tensor([0, 1, 20, 21])).tolist() == [False, True, True, False]
        histories_BL = torch.tensor([[0, 0, 3], [0, 0, 22]])
        assert model.knows_users(torch.tensor([35, 35]), histories_BL).tolist() == [user_known, False]


@pytest.mark.parametrize(("precision", "share"), [("float16", 0.65), ("int8", 0.5)])
def test_a_smaller_file_gives_nearly_the_same_scores(precision: Precision, share: float, tmp_path: Path) -> None:
    pairs = tastes(0, 50)
    model, _ = fit_pairs("sasrec", sizes(), pairs, pairs, FitConfig(epochs=1), CPU)
    (tmp_path / "small").mkdir()
    save(model, tmp_path)
    again = load("sasrec", save(model, tmp_path / "small", precision), tmp_path / "small")
    assert (tmp_path / "small" / FILE).stat().st_size < share * (tmp_path / FILE).stat().st_size
    assert next(again.parameters()).dtype == torch.float32
    np.testing.assert_allclose(pair_logits(again, pairs), pair_logits(model, pairs), atol=1e-2)
