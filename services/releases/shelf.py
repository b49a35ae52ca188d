"""From a registry's releases to services. What two releases share is in memory once, and gone with the last of them."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from services import loading
from services.ranking.batcher import Batcher
from services.ranking.service import RankingService, Served
from services.retrieval.service import RetrievalService
from services.retrieval.settings import RetrievalSettings
from shared.catalog import Catalog
from shared.registry import Part, Registry
from shared.wire.base import RankerName

if TYPE_CHECKING:
    from ranker.backbone import Pool
    from shared.data.prepared import Prepared


class Catalogs:
    """Equal catalogues are one, also where two services of one process ask at the same time."""

    def __init__(self) -> None:
        self._loaded: WeakValueDictionary[str, Catalog] = WeakValueDictionary()
        self._one_at_a_time = threading.Lock()

    def of(self, folder: Path, fingerprint: str = "") -> Catalog:
        """Nothing is read where the one with that fingerprint is loaded. Raises BadArtifact."""
        from shared.data.prepared import load_catalog

        with self._one_at_a_time:
            return self._loaded.get(fingerprint) or self._kept(load_catalog(folder))

    def prepared(self, folder: Path) -> Prepared:
        """Raises BadArtifact."""
        from shared.data.prepared import load

        with self._one_at_a_time:
            found = load(folder)
            return replace(found, catalog=self._kept(found.catalog))

    def _kept(self, catalog: Catalog) -> Catalog:
        return self._loaded.setdefault(catalog.fingerprint(), catalog)


class Retrievers:
    """A `Build` of the first stage."""

    def __init__(
        self,
        registry: Registry,
        catalogs: Catalogs,
        device: str = "auto",
        settings: RetrievalSettings | None = None,
        backbone: str | None = None,
    ) -> None:
        self.registry, self._catalogs, self._settings = registry, catalogs, settings
        self._device, self._backbone = device, backbone
        self._loaded: WeakValueDictionary[str, RetrievalService] = WeakValueDictionary()

    def __call__(self, release: str) -> RetrievalService:
        """Raises UnknownRelease or BadArtifact."""
        found = self.registry.whole(release)
        loaded = self._loaded.get(found.retriever.sha256)
        if loaded is None:
            stored = self._catalogs.prepared(self.registry.place(found.data))
            folder = self.registry.place(found.retriever)
            loaded = loading.retrieval_service(
                folder, stored.catalog, stored, self._device, self._settings, self._backbone
            )
            self._loaded[found.retriever.sha256] = loaded
        return loaded


class Rankers:
    """A `Build` of the second stage: one batcher for all, one backbone for all that are made on it.

    backbone: another place of the one that the manifests name.
    """

    def __init__(
        self,
        registry: Registry,
        catalogs: Catalogs,
        batcher: Batcher,
        default: RankerName | None = None,
        backbone: str | None = None,
        device: str = "auto",
    ) -> None:
        self.registry, self._catalogs, self._batcher, self._default = registry, catalogs, batcher, default
        self._backbone, self._device = backbone, device
        self._loaded: WeakValueDictionary[str, Served] = WeakValueDictionary()
        self._pools: WeakValueDictionary[str, Pool] = WeakValueDictionary()

    def __call__(self, release: str) -> RankingService:
        """Not self-tested yet. Raises UnknownRelease or BadArtifact; BadInput for a backbone that cannot be had."""
        found = self.registry.whole(release)
        fingerprint = self.registry.manifest(found.data).catalog_fingerprint
        catalog = self._catalogs.of(self.registry.place(found.data), fingerprint)
        rankers = loading.by_name([self._ranker(part, catalog) for part in found.rankers])
        default = self._default if self._default in rankers else None
        return RankingService(catalog, rankers, self._batcher, default)

    def _ranker(self, part: Part, catalog: Catalog) -> Served:
        served = self._loaded.get(part.sha256)
        if served is None:
            backbone = self.registry.manifest(part).config.get("backbone")
            pool = self._pool(self._backbone or str(backbone))
            served = loading.ranker(self.registry.place(part), catalog, self._backbone, self._device, pool)
            self._loaded[part.sha256] = served
        return served

    def _pool(self, backbone: str) -> Pool:
        from ranker.backbone import Pool

        pool = self._pools.get(backbone)
        if pool is None:
            pool = self._pools[backbone] = Pool(self._device)
        return pool
