"""From an artifact's folder to a ranker that may serve. The manifest's method says which; nothing else knows all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ranker import backbone as backbones
from ranker import golden
from ranker.backbone import VLLM, Backbone, Pool
from ranker.blend import log_softmax
from ranker.cllm4rec import rank as cllm4rec
from ranker.cllm4rec.recipes import CLLM4RecConfig
from ranker.collm import rank as collm
from ranker.collm.recipes import CoLLMConfig
from ranker.engines.local import LocalEngine
from ranker.engines.protocol import Engine
from ranker.evaluate import Questions, score
from ranker.labels import require
from ranker.llamarec.model import LlamaRecConfig
from ranker.llamarec.rank import LlamaRecRanker
from ranker.llamarec.train import prompt_builder
from ranker.llara import rank as llara
from ranker.llara.recipes import LLaRAConfig
from ranker.opinion import BlendedRanker, ServedScorer, opinions
from ranker.restore import Adapted, Cut, adapted, config_of
from shared.artifact import Manifest, open_artifact
from shared.catalog import Catalog
from shared.errors import GoldenMismatch
from shared.protocols import Ranker

SHIPPED = Path(__file__).parent / "shipped"
GOLDEN_TOLERANCE = golden.TOLERANCE


@dataclass(frozen=True, slots=True)
class LoadedRanker:
    manifest: Manifest
    ranker: Ranker
    self_test: Callable[[], None]
    """Raises GoldenMismatch unless the loaded model reproduces the score kept in its artifact."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a ranker comes from. backbone: another place of the same weights."""

    folder: Path
    manifest: Manifest
    catalog: Catalog
    backbone: str | None
    device: str
    pool: Pool | None

    def bare(self, config: Cut) -> Backbone:
        """The backbone without LoRA, this ranker's own or out of the pool."""
        name = self.backbone or config.backbone
        if self.pool:
            return self.pool.get(name, layers=config.layers, quantization=config.quantization)
        return backbones.load(name, layers=config.layers, device=self.device, quantization=config.quantization)

    def engine(self, base: Backbone, adapter: Adapted | None = None) -> Engine:
        """adapter: of this artifact, where it has one."""
        if (self.pool.device if self.pool else self.device) != VLLM:
            return LocalEngine(base)
        from ranker.engines.choice import alone, shared

        if self.pool is None:
            return alone(base)
        name = f"{self.manifest.method}@{self.manifest.version}"
        return shared(self.pool, base, name, adapter, self.folder)

    def adapted(self, config: Adapted) -> Backbone:
        if self.pool and self.pool.device == VLLM:
            return self.bare(config)
        return adapted(self.bare(config), config, self.folder, merge=self.pool is None)


def load(
    folder: Path, catalog: Catalog, backbone: str | None = None, device: str = "auto", pool: Pool | None = None
) -> LoadedRanker:
    """`backbone` overrides the name in the manifest, for the same weights in another place. With a pool several
    rankers share one backbone in memory; a ranker alone merges its adapter, which is faster.

    Raises BadArtifact or one of its kinds; BadInput where the backbone cannot be had.
    """
    manifest = open_artifact(folder, "ranker", methods=tuple(METHODS))
    catalog.require(manifest.catalog_fingerprint, f"the ranker in {folder}")
    return METHODS[manifest.method](Source(folder, manifest, catalog, backbone, device, pool))


def heard(ranker: Ranker, asked: Questions, what: str | None) -> tuple[np.ndarray, np.ndarray]:
    """What the language model alone says of the users whose truth is among their candidates: logits U x C, mass U."""
    if isinstance(ranker, LlamaRecRanker):
        return score(ranker.engine, ranker.builder, asked, what)
    assert isinstance(ranker, BlendedRanker)
    return opinions(ranker.scorer, asked, what)


def _llamarec(source: Source) -> LoadedRanker:
    manifest, folder = source.manifest, source.folder
    config = config_of(LlamaRecConfig, manifest, folder)
    base = source.adapted(config)
    builder = prompt_builder(base.tokenizer, source.catalog, config)
    require(manifest.extra["labels"], builder.labels, f"the ranker in {folder}")
    engine = source.engine(base, config)
    ranker = LlamaRecRanker(engine, builder, config.candidates, manifest.extra["blend"])
    return LoadedRanker(manifest, ranker, lambda: _self_test(engine, builder.labels, manifest, folder))


def _collm(source: Source) -> LoadedRanker:
    config = config_of(CoLLMConfig, source.manifest, source.folder)
    base = source.adapted(config)
    engine = source.engine(base, config)
    restored = collm.restore(base, source.catalog, config, source.manifest, source.folder, engine)
    return _blended(source, restored)


def _cllm4rec(source: Source) -> LoadedRanker:
    config = config_of(CLLM4RecConfig, source.manifest, source.folder)
    base = source.bare(config)
    restored = cllm4rec.restore(base, source.catalog, config, source.manifest, source.folder, source.engine(base))
    return _blended(source, restored)


def _llara(source: Source) -> LoadedRanker:
    config = config_of(LLaRAConfig, source.manifest, source.folder)
    base = source.adapted(config)
    engine = source.engine(base, config)
    restored = llara.restore(base, source.catalog, config, source.manifest, source.folder, engine)
    return _blended(source, restored, golden.TITLE_TOLERANCE)


METHODS: dict[str, Callable[[Source], LoadedRanker]] = {
    "llamarec": _llamarec,
    "collm": _collm,
    "tallrec": _collm,
    "cllm4rec": _cllm4rec,
    "llara": _llara,
}


def _blended(source: Source, scorer: ServedScorer, tolerance: float = golden.TOLERANCE) -> LoadedRanker:
    ranker = BlendedRanker(scorer, source.manifest.extra["blend"])
    return LoadedRanker(
        source.manifest, ranker, lambda: golden.check(scorer, source.manifest, source.folder, tolerance)
    )


def _self_test(engine: Engine, labels: list[int], manifest: Manifest, folder: Path) -> None:
    kept = manifest.extra["golden"]
    expected_K = log_softmax(np.array(kept["logits"]))
    actual_K = log_softmax(engine.label_logits([kept["prompt"]], labels).logits_BK[0].astype(np.float64))
    likely_K = np.exp(expected_K) >= 0.01
    worst = float(np.abs(expected_K - actual_K)[likely_K].max())
    if not worst <= GOLDEN_TOLERANCE:
        raise GoldenMismatch(
            f"the ranker in {folder} does not reproduce its golden score: off by {worst:.2f} in log probability, "
            f"{GOLDEN_TOLERANCE} allowed. Its backbone is not {manifest.config['backbone']!r} as it was trained on."
        )
