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
    label_smoothing: float = 0.1
    """Share of each target that is spread over the whole catalogue."""
    clip: float = 5.0
    """Gradient norm."""
    average: float = 0.999
    """What is validated and kept is the exponential moving average of the weights with this decay a step; 0: the
    weights themselves."""
    epochs: int = 200
    """At most; early stopping ends sooner."""
    validate_every: int = 500
    """Steps."""
    patience: int = 3
    """Validations without a better Recall@10 before the training stops."""
    seed: int = 42


def default() -> TrainConfig:
    """Short sequences, many items: a window of 50, batches of 64 (LRURec, section 4.1)."""
    return TrainConfig()


def movielens() -> TrainConfig:
    """Long sequences, few users: small batches, a window of 200 (LRURec, section 4.1)."""
    return TrainConfig(window=200, batch=16, label_smoothing=0.0, average=0.998, validate_every=100, patience=6)


RECIPES: dict[str, Callable[[], TrainConfig]] = {"default": default, "movielens": movielens}


RANGES = {
    **dict.fromkeys(("window", "width", "state", "blocks", "batch", "epochs", "validate_every", "patience"), (1, 1e9)),
    **dict.fromkeys(("dropout", "attention_dropout"), (0, 0.99)),
    "average": (0, 0.99999),
    "label_smoothing": (0, 0.99),
    **dict.fromkeys(("learning_rate", "clip"), (1e-12, 1e9)),
    "weight_decay": (0, 1e9),
    "seed": (0, 2**63 - 1),
}


def for_dataset(method: str) -> str:
    """The recipe that suits a prepared folder, by its manifest's method."""
    return {"ml-100k": "movielens", "ml-latest-small": "movielens"}.get(method, "default")


def configure(name: str, overrides: dict[str, str]) -> TrainConfig:
    """Raises BadInput for an unknown recipe, an unknown field, or a value that cannot train."""
    if name not in RECIPES:
        raise BadInput(f"recipe {name!r} is unknown; there are {', '.join(sorted(RECIPES))}")
    config = override(RECIPES[name](), overrides)
    for field, (low, high) in RANGES.items():
        if not low <= getattr(config, field) <= high:
            raise BadInput(f"--set {field}={getattr(config, field)}: {field} must be within {low:g} to {high:g}")
    return config
