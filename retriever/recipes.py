"""Named runs: each returns the whole training config. The command line names one and may override a field."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared.config import override
from shared.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    window: int = 50
    """Items of history that the model sees."""
    width: int = 64
    state: int = 128
    blocks: int = 2
    dropout: float = 0.5
    attention_dropout: float = 0.5
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 5.0
    """Gradient norm."""
    epochs: int = 200
    """At most; early stopping ends sooner."""
    validate_every: int = 500
    """Steps."""
    patience: int = 10
    """Validations without a better Recall@10 before the training stops."""
    seed: int = 42


def default() -> TrainConfig:
    return TrainConfig()


def movielens() -> TrainConfig:
    """Long sequences, few users: small batches, a window of 200 (LRURec, section 4.1)."""
    return TrainConfig(window=200, batch=16, dropout=0.2, attention_dropout=0.5, validate_every=100, patience=8)


def amazon() -> TrainConfig:
    """Short sequences, many items."""
    return TrainConfig()


RECIPES: dict[str, Callable[[], TrainConfig]] = {"default": default, "movielens": movielens, "amazon": amazon}


def for_dataset(method: str) -> str:
    """The recipe that suits a prepared folder, by its manifest's method."""
    return {"ml-100k": "movielens", "ml-latest-small": "movielens", "amazon": "amazon"}.get(method, "default")


def configure(name: str, overrides: dict[str, str]) -> TrainConfig:
    """Raises BadInput for an unknown recipe, an unknown field or a value of the wrong type."""
    if name not in RECIPES:
        raise BadInput(f"recipe {name!r} is unknown; there are {', '.join(sorted(RECIPES))}")
    return override(RECIPES[name](), overrides)
