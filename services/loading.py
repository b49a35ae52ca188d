"""From artifact folders to the services that serve them. Model libraries are imported when they are needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from services.ranking.batcher import Batcher
from services.ranking.metrics import Jobs
from services.ranking.service import RankingService, Served
from services.ranking.settings import RankingSettings
from services.retrieval.recall import Exact, require_recall, sample
from services.retrieval.service import MAX_BATCH, RetrievalService
from services.retrieval.settings import RetrievalSettings
from services.retrieval.states import open_states
from shared.artifact import Manifest
from shared.catalog import Catalog
from shared.errors import BadInput
from shared.history import History
from shared.protocols import ServedRetriever
from shared.registry import kind_of
from shared.wire.base import RankerName
from shared.wire.inner import ModelCard

if TYPE_CHECKING:
    from ranker.backbone import Pool
    from retriever.states import States
    from shared.data.prepared import Prepared

log = structlog.get_logger()
SERVED_AS = {"cllm4rec": "recllm"}
"""The method CLLM4Rec trains the ranker that its paper calls RecLLM."""


class FirstStage(NamedTuple):
    manifest: Manifest
    retriever: ServedRetriever
    popularity: ServedRetriever
    exact: Exact | None = None
    """None where the index is made of the model when it is loaded, and so cannot be another's."""
    remember: Callable[[States], None] | None = None
    """For a retriever that can go on from what it keeps of a history."""
    max_batch: int = 1
    """A language model gains nothing by several histories at once on a CPU."""
    prepare: Callable[[], None] = lambda: None
    """What the thread that it works in does first."""


def first_stage(folder: Path, catalog: Catalog, device: str = "auto", backbone: str | None = None) -> FirstStage:
    """LRURec, or RecLLM out of its ranker's artifact, to which `device` and `backbone` matter. Raises BadArtifact."""
    if kind_of(folder) == "ranker":
        from services import recllm

        return FirstStage(*recllm.load(folder, catalog, backbone, device))
    import torch

    from retriever.retrieve import load
    from retriever.threads import alone

    loaded = load(folder, catalog)
    retriever = loaded.retriever

    @torch.inference_mode()
    def exact(histories: Sequence[History]) -> np.ndarray:
        users_BD = torch.from_numpy(retriever.encode([history.items for history in histories]))
        return np.asarray(retriever.model.scores(users_BD))

    return FirstStage(loaded.manifest, retriever, loaded.popularity, exact, retriever.remember, MAX_BATCH, alone)


def retrieval_service(
    folder: Path,
    catalog: Catalog,
    stored: Prepared | None = None,
    device: str = "auto",
    settings: RetrievalSettings | None = None,
    backbone: str | None = None,
) -> RetrievalService:
    """Its index has found what its model scores highest, for some `stored` users. Without `settings` it remembers no
    history. Raises BadArtifact."""
    stage = first_stage(folder, catalog, device, backbone)
    if stage.exact:
        require_recall(stage.retriever, stage.exact, sample(stored, len(catalog)), f"the retriever in {folder}")
    states = None
    if stage.remember is not None and settings is not None and settings.states_max_bytes:
        from retriever.states import States

        states = States(stage.manifest.version, settings.states_max_bytes, shared=open_states(settings))
        stage.remember(states)
    named = card(stage.manifest)
    return RetrievalService(catalog, stage.retriever, stage.popularity, named, states, stage.max_batch, stage.prepare)


def ranking_service(
    folders: Sequence[Path],
    catalog: Catalog,
    settings: RankingSettings,
    batcher: Batcher,
    backbone: str | None = None,
    device: str = "auto",
) -> RankingService:
    """Every ranker loaded and self-tested. Raises BadArtifact; BadInput for two folders of one method."""
    served = by_name(_rankers(folders, catalog, backbone, device))
    if settings.default_ranker not in (None, "retrieval", *served):
        raise BadInput(
            f"TANDEM_DEFAULT_RANKER is {settings.default_ranker!r}; loaded are: {', '.join(served) or 'none'}."
        )
    default = settings.default_ranker if settings.default_ranker in served else None
    service = RankingService(catalog, served, batcher, default)
    service.self_test()
    for name, one in served.items():
        if one.card.metrics.get("blend") == 0:
            log.warning(
                "ranker without weight", ranker=name, told="blend weight 0: it answers with the retriever's order"
            )
    return service


def by_name(rankers: Iterable[Served]) -> dict[RankerName, Served]:
    """In their order. Raises BadInput for two of one method."""
    served: dict[RankerName, Served] = {}
    for one in rankers:
        name = cast(RankerName, one.card.method)
        if name in served:
            raise BadInput(f"two rankers are both {name!r}: {one.card.name} and {served[name].card.name}. Give one.")
        served[name] = one
    return served


def batcher(settings: RankingSettings, registry: CollectorRegistry) -> Batcher:
    """Its worker thread runs from here on."""
    jobs = Jobs(registry)
    queue = Batcher(
        settings.max_queue,
        settings.max_batch,
        jobs,
        jobs.ran,
        max_queue_tokens=settings.max_queue_tokens,
        max_batch_tokens=settings.max_batch_tokens,
        hang_s=settings.engine_hang_s,
    )
    jobs.watch(queue)
    return queue


def _rankers(folders: Sequence[Path], catalog: Catalog, backbone: str | None, device: str) -> Iterator[Served]:
    """Several share one backbone; one alone merges its adapter into it, which is faster."""
    if not folders:
        return
    from ranker.backbone import Pool

    pool = Pool(device) if len(folders) > 1 else None
    for folder in folders:
        yield ranker(folder, catalog, backbone, device, pool)


def ranker(folder: Path, catalog: Catalog, backbone: str | None, device: str, pool: Pool | None) -> Served:
    """Raises BadArtifact; BadInput where the backbone cannot be had."""
    from ranker.registry import load

    loaded = load(folder, catalog, backbone, device, pool)
    return Served(loaded.ranker, card(loaded.manifest), loaded.self_test, shares=pool)


def card(manifest: Manifest) -> ModelCard:
    """What /models and the answers say of an artifact, under the name that it is served by."""
    method = SERVED_AS.get(manifest.method, manifest.method)
    simple: dict[str, float | int | str | None] = {
        key: value for key, value in manifest.metrics.items() if isinstance(value, float | int | str)
    }
    if "blend_gain" in manifest.metrics:
        simple |= {"blend": manifest.extra["blend"], "blend_gain": manifest.metrics["blend_gain"]["mean"]}
    return ModelCard(
        name=f"{method}@{manifest.version}",
        method=method,
        catalog=manifest.catalog_fingerprint[:12],
        labels=_digest(manifest.extra.get("labels")),
        template=_digest(manifest.config.get("template")),
        metrics=simple,
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12] if value is not None else ""
