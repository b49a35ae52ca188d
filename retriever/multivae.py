"""Multi-VAE (Liang et al., WWW 2018) from the library cornac: the row beside CLLM4Rec's. Not for serving; needs the
extra `baselines`.

Shapes:  U users  I items; column i is dense index i + 1
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shared.errors import BadInput
from shared.progress import progress

Scores = Callable[[Sequence[Sequence[int] | np.ndarray]], np.ndarray]
"""From U users' items to U x I."""


@dataclass(frozen=True, kw_only=True)
class MultiVAEConfig:
    inner: int = 600
    latent: int = 200
    """Widths (section 4.3 of Liang et al.)."""
    betas: tuple[float, ...] = (0.2, 1.0)
    """Weights of the Kullback-Leibler term, one run each; validation chooses."""
    learning_rate: float = 1e-3
    batch: int = 100
    epochs: int = 200
    """At most."""
    steps: int = 35
    """Between validations at least, in whole epochs."""
    patience: int = 5
    """Validations without a better score."""
    seed: int = 42


def fit(
    train: Sequence[np.ndarray], items: int, validate: Callable[[Scores], float], config: MultiVAEConfig
) -> tuple[Scores, dict[str, Any]]:
    """train: each user's items. validate: higher is better. Also how it went. Raises BadInput without the extra."""
    try:
        from cornac.models.vaecf.vaecf import VAE, learn
    except ModuleNotFoundError as error:
        raise BadInput(f"baseline 'multi-vae' needs {error.name}: pip install 'tandem-rec[baselines]'") from None
    import torch

    dataset = _dataset(train, items, config.seed)
    every = min(config.epochs, math.ceil(config.steps / math.ceil(len(train) / config.batch)))
    best, kept, told = float("-inf"), None, {"beta": 0.0, "epochs": 0}
    for beta in config.betas:
        torch.manual_seed(config.seed)
        vae = VAE(config.latent, [items, config.inner], "tanh", "mult")
        stale = 0
        with progress(f"fit multi-vae, beta {beta:g}", config.epochs, "epochs") as advance:
            for epoch in range(every, config.epochs + 1, every):
                # Each call has an optimizer of its own: Adam begins anew with every validation.
                learn(vae, dataset, every, config.batch, config.learning_rate, beta, verbose=False)
                score, stale = validate(scores_of(vae, items)), stale + 1
                if score > best:
                    best, kept, told, stale = score, copy.deepcopy(vae), {"beta": beta, "epochs": epoch}, 0
                advance(every, f"validation {score:.4f}  best {best:.4f}")
                if stale >= config.patience:
                    break
    assert kept is not None
    return scores_of(kept, items), {"config": asdict(config), "valid": best} | told


def scores_of(vae: Any, items: int) -> Scores:
    """At the mean of the latent normal, in the logarithm of the multinomial's probabilities."""
    import torch

    @torch.no_grad()
    def scores(rows: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
        seen_UI = torch.zeros(len(rows), items)
        for row, own in enumerate(rows):
            seen_UI[row, torch.as_tensor(np.asarray(own, dtype=np.int64) - 1)] = 1
        return vae.decode(vae.encode(seen_UI)[0]).log().numpy()

    return scores


def _dataset(train: Sequence[np.ndarray], items: int, seed: int) -> Any:
    from cornac.data import Dataset

    users_N = np.repeat(np.arange(len(train)), [len(own) for own in train])
    items_N = np.concatenate(train) - 1
    rows = users_N, items_N, np.ones(len(users_N), dtype=np.float32)
    numbers = {user: user for user in range(len(train))}, {item: item for item in range(items)}
    return Dataset(len(train), items, *numbers, rows, seed=seed)
