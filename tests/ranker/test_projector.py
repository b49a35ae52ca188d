"""The way from a recommender's vectors to the language model's."""

from __future__ import annotations

import pytest
import torch

from ranker.projector import Projector, unit_scale


@pytest.mark.parametrize("length", [1e-3, 1.0, 50.0])
def test_the_scale_brings_vectors_of_any_length_to_unit_size(length: float) -> None:
    vectors_ND = length * torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    scaled_ND = vectors_ND * unit_scale(vectors_ND)
    assert float(scaled_ND.square().mean()) == pytest.approx(1, rel=1e-4)


def test_vectors_of_length_zero_stay_finite() -> None:
    assert unit_scale(torch.zeros(3, 2)) < 1e5


def test_the_scale_is_kept_with_the_weights() -> None:
    one, other = Projector(4, 8, 6, "gelu", scale=3.0), Projector(4, 8, 6, "gelu")
    other.load_state_dict(one.state_dict())
    x_ND = torch.randn(2, 4)
    assert torch.equal(one(x_ND), other(x_ND))
    assert float(other.scale) == 3.0
