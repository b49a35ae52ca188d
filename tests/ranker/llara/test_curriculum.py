"""When a batch is hybrid."""

from __future__ import annotations

import numpy as np
import pytest

from ranker.llara.curriculum import Curriculum, hybrid_share, is_hybrid

STEPS = 20


def frequencies(kind: Curriculum) -> np.ndarray:
    """Over 2,000 runs, by step."""
    return np.array([np.mean([is_hybrid(kind, step, STEPS, seed) for seed in range(2_000)]) for step in range(STEPS)])


def test_the_curriculums_frequencies_follow_the_step() -> None:
    """Within four standard errors of t / T at every step."""
    np.testing.assert_allclose(frequencies("curriculum"), np.arange(STEPS) / STEPS, atol=4 * 0.5 / np.sqrt(2_000))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("direct", [1.0] * STEPS), ("text", [0.0] * STEPS), ("two-stage", [0.0] * 10 + [1.0] * 10)],
)
def test_the_ablations_leave_nothing_to_chance(kind: Curriculum, expected: list[float]) -> None:
    assert [hybrid_share(kind, step, STEPS) for step in range(STEPS)] == expected
    assert [float(is_hybrid(kind, step, STEPS, seed=3)) for step in range(STEPS)] == expected


def test_a_run_repeats_its_draws() -> None:
    draws = [[is_hybrid("curriculum", step, 200, seed) for step in range(200)] for seed in (1, 1, 2)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
