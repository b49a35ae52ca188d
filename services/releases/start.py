"""What a process starts with: the folders that it was given, or the current release of its registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from services import loading
from services.ranking.releases import RankingReleases
from services.ranking.settings import RankingSettings
from services.releases.host import LOCAL
from services.releases.settings import ReleaseSettings
from services.releases.shelf import Catalogs, Rankers, Retrievers
from services.retrieval.releases import RetrievalReleases
from services.retrieval.settings import RetrievalSettings
from shared.errors import BadInput
from shared.registry import Registry

WHICH = "give --registry (or TANDEM_REGISTRY), or the folders: --data and those of the models"


def retrieval(
    data: Path | None,
    retriever: Path | None,
    settings: RetrievalSettings,
    catalogs: Catalogs,
    device: str = "auto",
    backbone: str | None = None,
    release: str | None = None,
) -> RetrievalReleases:
    """release: to start with in place of the current one. Raises BadArtifact or UnknownRelease."""
    build = None
    if settings.registry:
        build = Retrievers(Registry(settings.registry), catalogs, device, settings, backbone)
    if build is not None and data is retriever is None:
        current = release or build.registry.current()
        return RetrievalReleases(build(current), current, build, settings.max_releases)
    if data is None or retriever is None:
        raise BadInput(WHICH)
    stored = catalogs.prepared(data)
    live = loading.retrieval_service(retriever, stored.catalog, stored, device, settings, backbone)
    return RetrievalReleases(live, LOCAL, build, settings.max_releases)


def ranking(
    data: Path | None,
    rankers: Sequence[Path],
    settings: RankingSettings,
    catalogs: Catalogs,
    metrics: CollectorRegistry,
    backbone: str | None,
    device: str,
    release: str | None = None,
) -> RankingReleases:
    """release: to start with in place of the current one. Raises BadArtifact or UnknownRelease; BadInput for a backbone
    that cannot be had, or vLLM that is not here."""
    device = "vllm" if settings.engine == "vllm" else device
    batcher = loading.batcher(settings, metrics)
    build = None
    if settings.registry:
        registry = Registry(settings.registry)
        build = Rankers(registry, catalogs, batcher, settings.default_ranker, backbone, device)
    if build is not None and data is None and not rankers:
        current = release or build.registry.current()
        live = build(current)
        live.self_test()
        return RankingReleases(live, current, build, settings.max_releases)
    if data is None:
        raise BadInput(WHICH)
    live = loading.ranking_service(rankers, catalogs.of(data), settings, batcher, backbone, device)
    return RankingReleases(live, LOCAL, build, settings.max_releases)


def current(settings: ReleaseSettings) -> tuple[str, Path]:
    """The current release and its data folder. A process asks once: while models load, another may become it. Raises
    BadInput or UnknownRelease."""
    if settings.registry is None:
        raise BadInput(WHICH)
    registry = Registry(settings.registry)
    release = registry.current()
    return release, registry.place(registry.release(release).data)
