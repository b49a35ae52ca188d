"""The loss against a plain float64 loop, and runs that are refused before they start."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.llamarec.model import RECIPES, configure, probe_loss, verbalizer_loss
from shared.errors import BadInput

seeded = settings(derandomize=True, deadline=None, max_examples=40)
SIZES = st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(8, 30))


def draw(batch: int, labels: int, vocabulary: int, seed: int, soft: bool) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    hidden_BD, head_VD = rng.normal(size=(batch, 7)), rng.normal(size=(vocabulary, 7))
    labels_K = rng.permutation(vocabulary)[:labels]
    hard_BK = np.eye(labels)[rng.integers(labels, size=batch)]
    return hidden_BD, head_VD, labels_K, rng.dirichlet(np.ones(labels), size=batch) if soft else hard_BK


def plain(hidden_BD: np.ndarray, head_VD: np.ndarray, labels_K: np.ndarray, target_BK: np.ndarray, over: str) -> float:
    losses = []
    for hidden_D, target_K in zip(hidden_BD, target_BK, strict=True):
        logits = [float(row_D @ hidden_D) for row_D in head_VD]
        among = [logits[label] for label in labels_K] if over == "labels" else logits
        normal = math.log(math.fsum(math.exp(x) for x in among))
        losses.append(-math.fsum(t * (logits[k] - normal) for t, k in zip(target_K, labels_K, strict=True)))
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("over", ["vocabulary", "labels"])
@pytest.mark.parametrize("soft", [False, True])
@given(SIZES, st.integers(0, 10_000))
@seeded
def test_the_loss_equals_a_plain_loop(over: str, soft: bool, sizes: tuple[int, int, int], seed: int) -> None:
    numbers = draw(*sizes, seed, soft)
    tensors = [torch.from_numpy(n).float() if n.dtype == np.float64 else torch.from_numpy(n) for n in numbers]
    assert verbalizer_loss(*tensors, over).item() == pytest.approx(plain(*numbers, over), abs=1e-4)  # type: ignore[arg-type]


def test_one_right_label_over_the_vocabulary_is_next_token_cross_entropy() -> None:
    hidden_BD, head_VD, labels_K, target_BK = (torch.from_numpy(n) for n in draw(6, 4, 20, 0, soft=False))
    right_B = labels_K[target_BK.argmax(1)]
    expected = torch.nn.functional.cross_entropy((hidden_BD @ head_VD.T).float(), right_B)
    assert verbalizer_loss(hidden_BD, head_VD, labels_K, target_BK, "vocabulary").item() == pytest.approx(
        expected.item(), abs=1e-5
    )


def test_labels_that_are_not_asked_for_cost_nothing_over_the_vocabulary_but_their_mass() -> None:
    """Over the labels alone a model that says something else altogether is not punished; over the vocabulary it is."""
    hidden_BD, head_VD = torch.ones(1, 1), torch.tensor([[0.0], [0.0], [10.0]])
    labels_K, target_BK = torch.tensor([0, 1]), torch.tensor([[1.0, 0.0]])
    assert verbalizer_loss(hidden_BD, head_VD, labels_K, target_BK, "labels").item() == pytest.approx(math.log(2))
    assert verbalizer_loss(hidden_BD, head_VD, labels_K, target_BK, "vocabulary").item() > 9


def test_the_probes_loss_is_a_cross_entropy_over_the_candidates() -> None:
    rng = np.random.default_rng(0)
    ends_BKD, probe_D = rng.normal(size=(3, 4, 5)), rng.normal(size=5)
    target_BK = rng.dirichlet(np.ones(4), size=3)
    expected = -np.mean(
        [
            sum(t * (e - math.log(sum(math.exp(x) for x in row))) for t, e in zip(target_K, row, strict=True))
            for target_K, row in zip(target_BK, ends_BKD @ probe_D, strict=True)
        ]
    )
    found = probe_loss(*(torch.from_numpy(n) for n in (ends_BKD, probe_D, target_BK)))
    assert found.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_without_overrides_is_the_recipe(name: str) -> None:
    assert configure(name, {}) == RECIPES[name]()


def test_overrides_take_the_type_of_their_field() -> None:
    config = configure("full", {"batch": "4", "clip": "0.5", "lora_targets": "q_proj,k_proj"})
    assert config == replace(RECIPES["full"](), batch=4, clip=0.5, lora_targets=("q_proj", "k_proj"))


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("gigantic", {}, r"'gigantic' is unknown.*paper"),
        ("paper", {"heads": "3"}, r"heads=3: no such field"),
        ("paper", {"batch": "many"}, r"batch=many"),
        ("paper", {"candidates": "21"}, r"candidates=21"),
        ("paper", {"candidates": "1"}, r"candidates=1"),
    ],
)
def test_a_run_that_cannot_be_is_refused(recipe: str, overrides: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        configure(recipe, overrides)
