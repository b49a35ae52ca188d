"""The first stage of several releases: the gateway's ReleasesPort[RetrievalPort] when both live in one process."""

from __future__ import annotations

from services.releases.host import LOCAL, Build, Host
from services.retrieval.service import RetrievalService, Took
from shared.deadline import Deadline
from shared.wire.inner import ModelList, ResolveAnswer, ResolveRequest, RetrieveAnswer, RetrieveRequest, ScoreRequest
from shared.wire.users import ItemAnswer


class RetrievalReleases(Host[RetrievalService]):
    def __init__(
        self,
        live: RetrievalService,
        name: str = LOCAL,
        build: Build[RetrievalService] | None = None,
        max_releases: int = 5,
    ) -> None:
        super().__init__(live, name, build, max_releases)
        self._took: Took = live.took

    def watch(self, took: Took) -> None:
        self._took = took
        for service in self._loaded.values():
            service.took = took

    def port(self, release: str | None) -> RetrievalService | OneRetrieval:
        return self.live if release is None else OneRetrieval(self, release)

    def _admitted(self, service: RetrievalService) -> None:
        service.took = self._took


class OneRetrieval:
    """A release by its id, so that nothing is kept in memory by whoever speaks of it. Every call raises
    ReleaseNotLoaded where it is not loaded."""

    def __init__(self, releases: RetrievalReleases, release: str) -> None:
        self._releases, self._release = releases, release

    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer:
        return await self._releases.of(self._release).retrieve(request, deadline)

    async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
        return await self._releases.of(self._release).score(request, deadline)

    async def resolve(self, request: ResolveRequest, deadline: Deadline) -> ResolveAnswer:
        return await self._releases.of(self._release).resolve(request, deadline)

    async def popular(self, k: int, deadline: Deadline) -> RetrieveAnswer:
        return await self._releases.of(self._release).popular(k, deadline)

    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        return await self._releases.of(self._release).item(item_id, deadline)

    async def models(self, deadline: Deadline) -> ModelList:
        return await self._releases.of(self._release).models(deadline)
