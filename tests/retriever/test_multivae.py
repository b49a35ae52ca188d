from collections.abc import Sequence

import numpy as np
import pytest

from retriever.multivae import MultiVAEConfig, Scores, fit

USERS, ITEMS, OWN = 60, 24, 7
CONFIG = MultiVAEConfig(inner=16, latent=8, learning_rate=1e-2, epochs=40, steps=30, batch=20)


@pytest.fixture(scope="module")
def people() -> list[np.ndarray]:
    """Even users take items of the first half of the catalogue, odd ones of the second."""
    rng = np.random.default_rng(0)
    half = ITEMS // 2
    return [np.sort(rng.permutation(half)[:OWN]) + 1 + half * (user % 2) for user in range(USERS)]


def in_own_half(scores: Scores, people: Sequence[np.ndarray]) -> float:
    """Share of users whose best five new items are all of their own half."""
    hits = 0
    for items, scores_I in zip(people, scores(people), strict=True):
        scores_I[items - 1] = -np.inf
        best = np.argsort(-scores_I)[:5] + 1
        hits += bool((best <= ITEMS // 2).all() if items[0] <= ITEMS // 2 else (best > ITEMS // 2).all())
    return hits / len(people)


def test_it_learns_who_takes_what(people: list[np.ndarray]) -> None:
    scores, how = fit(people, ITEMS, lambda told: in_own_half(told, people), CONFIG)
    assert in_own_half(scores, people) == how["valid"] == 1.0
    assert how["beta"] in CONFIG.betas
    assert how["epochs"] % 10 == 0


def test_scores_are_log_probabilities_of_all_items(people: list[np.ndarray]) -> None:
    scores, _ = fit(people, ITEMS, lambda told: 0.0, CONFIG)
    assert np.exp(scores([*people, []])).sum(1) == pytest.approx(np.ones(USERS + 1), abs=1e-5)


def test_the_same_seed_gives_the_same_scores(people: list[np.ndarray]) -> None:
    one, other = (fit(people, ITEMS, lambda told: 0.0, CONFIG)[0] for _ in range(2))
    assert (one(people) == other(people)).all()
