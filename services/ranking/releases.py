"""The rankers of several releases behind one worker: ReleasesPort[RankingPort] when all live in one process."""

from __future__ import annotations

from services.ranking.service import RankingService
from services.releases.host import Host
from shared.deadline import Deadline
from shared.wire.inner import ModelList, RankAnswer, RankRequest


class RankingReleases(Host[RankingService]):
    def port(self, release: str | None) -> RankingService | OneRanking:
        return self.live if release is None else OneRanking(self, release)

    async def _proved(self, service: RankingService) -> None:
        await service.self_test_in_turn()


class OneRanking:
    """A release by its id, so that nothing is kept in memory by whoever speaks of it. Every call raises
    ReleaseNotLoaded where it is not loaded."""

    def __init__(self, releases: RankingReleases, release: str) -> None:
        self._releases, self._release = releases, release

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        return await self._releases.of(self._release).rank(request, deadline)

    async def models(self, deadline: Deadline) -> ModelList:
        return await self._releases.of(self._release).models(deadline)
