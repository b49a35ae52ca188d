"""The small recommenders by name; their weights in an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ranker import weights
from ranker.behaviour.caser import Caser
from ranker.behaviour.din import DIN
from ranker.behaviour.gru4rec import GRU4Rec
from ranker.behaviour.lightgcn import LightGCN
from ranker.behaviour.lrurec import LRURec
from ranker.behaviour.mf import MF
from ranker.behaviour.model import Behaviour, Sizes
from ranker.behaviour.sasrec import SASRec
from ranker.behaviour.svdpp import SVDpp
from ranker.weights import Precision
from shared.errors import BadArtifact

FILE = "behaviour.safetensors"

Name = Literal["mf", "svdpp", "lightgcn", "sasrec", "din", "gru4rec", "caser", "lrurec"]
MODELS: dict[str, Callable[[Sizes], Behaviour]] = {
    "mf": MF,
    "svdpp": SVDpp,
    "lightgcn": LightGCN,
    "sasrec": SASRec,
    "din": DIN,
    "gru4rec": GRU4Rec,
    "caser": Caser,
    "lrurec": LRURec,
}


def save(model: Behaviour, folder: Path, precision: Precision = "float32") -> dict[str, Any]:
    """What the manifest must keep to load it again."""
    weights.save(model.state_dict(), folder / FILE, precision)
    return asdict(model.sizes)


def load(name: str, sizes: Mapping[str, Any], folder: Path) -> Behaviour:
    """Raises BadArtifact where file and manifest are not of one training."""
    try:
        model = MODELS[name](Sizes(**sizes))
        model.load_state_dict(weights.load(folder / FILE))
    except (KeyError, TypeError, RuntimeError) as error:
        raise BadArtifact(f"{folder / FILE} does not fit the manifest: {error}") from None
    return model.eval().requires_grad_(False)
