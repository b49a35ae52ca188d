"""From an artifact's folder to a ranker that may serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from ranker import backbone as backbones
from ranker.blend import log_softmax
from ranker.engines.local import LocalEngine
from ranker.fit import ADAPTER, add_lora, set_adapter_weights
from ranker.labels import require
from ranker.llamarec.model import LlamaRecConfig
from ranker.llamarec.rank import LlamaRecRanker
from ranker.llamarec.train import prompt_builder
from shared.artifact import Manifest, open_artifact
from shared.catalog import Catalog
from shared.errors import BadArtifact, BadInput, GoldenMismatch
from shared.protocols import Ranker

SHIPPED = Path(__file__).parent / "shipped"
GOLDEN_TOLERANCE = 0.35
"""In log probability, on the labels that hold 1 % or more. The shipped adapter in float32 differs from its golden score
in bfloat16 by 0.04; the same backbone without the adapter by 1.6, cut to the adapter's layers by 10."""


@dataclass(frozen=True, slots=True)
class LoadedRanker:
    manifest: Manifest
    ranker: Ranker
    self_test: Callable[[], None]
    """Raises GoldenMismatch unless the loaded model reproduces the score kept in its artifact."""


def load(folder: Path, catalog: Catalog, backbone: str | None = None, device: str = "auto") -> LoadedRanker:
    """`backbone` overrides the name in the manifest, for the same weights in another place.

    Raises BadArtifact or one of its kinds; BadInput where the backbone cannot be had.
    """
    manifest = open_artifact(folder, "ranker", methods=("llamarec",))
    catalog.require(manifest.catalog_fingerprint, f"the ranker in {folder}")
    config = _config(manifest, folder)
    base = backbones.load(
        backbone or config.backbone, layers=config.layers, device=device, quantization=config.quantization
    )
    wrapped = add_lora(
        base.model,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=0.0,
        targets=config.lora_targets,
        first_layer=config.lora_first_layer,
    )
    try:
        set_adapter_weights(wrapped, load_file(folder / ADAPTER))
    except BadInput as error:
        raise BadArtifact(f"{folder}: {error}") from None
    base = base.with_model(wrapped.merge_and_unload().eval())
    builder = prompt_builder(base.tokenizer, catalog, config)
    require(manifest.extra["labels"], builder.labels, f"the ranker in {folder}")
    engine = LocalEngine(base)
    ranker = LlamaRecRanker(engine, builder, config.candidates, manifest.extra["blend"])
    return LoadedRanker(manifest, ranker, lambda: _self_test(engine, builder.labels, manifest, folder))


def _config(manifest: Manifest, folder: Path) -> LlamaRecConfig:
    try:
        return LlamaRecConfig(**(manifest.config | {"lora_targets": tuple(manifest.config["lora_targets"])}))
    except (KeyError, TypeError) as error:
        raise BadArtifact(
            f"{folder} was made by another version of Tandem: {error}. Train it anew, or install "
            f"tandem-rec {manifest.packages.get('tandem-rec', 'as it was')}."
        ) from None


def _self_test(engine: LocalEngine, labels: list[int], manifest: Manifest, folder: Path) -> None:
    golden = manifest.extra["golden"]
    expected_K = log_softmax(np.array(golden["logits"]))
    actual_K = log_softmax(engine.label_logits([golden["prompt"]], labels).logits_BK[0].astype(np.float64))
    likely_K = np.exp(expected_K) >= 0.01
    worst = float(np.abs(expected_K - actual_K)[likely_K].max())
    if not worst <= GOLDEN_TOLERANCE:
        raise GoldenMismatch(
            f"the ranker in {folder} does not reproduce its golden score: off by {worst:.2f} in log probability, "
            f"{GOLDEN_TOLERANCE} allowed. Its backbone is not {manifest.config['backbone']!r} as it was trained on."
        )
