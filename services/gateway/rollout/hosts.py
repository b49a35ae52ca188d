"""Where releases are loaded: the two inner services, over HTTP. In one process their own host objects fit."""

from __future__ import annotations

from dataclasses import dataclass

from services.gateway.ports import RankingPort, ReleasesPort, RetrievalPort


@dataclass(frozen=True, slots=True)
class Hosts:
    retrieval: ReleasesPort[RetrievalPort]
    ranking: ReleasesPort[RankingPort]
