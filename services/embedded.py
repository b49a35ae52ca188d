"""All three services in one process: the gateway's ports are the services themselves, with no network between."""

from __future__ import annotations

from contextlib import AsyncExitStack

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.gateway.app import compose
from services.gateway.ports import Histories
from services.gateway.rollout.hosts import Hosts
from services.gateway.settings import GatewaySettings
from services.ranking.releases import RankingReleases
from services.ranking.service import RankingService
from services.retrieval.metrics import Times
from services.retrieval.releases import RetrievalReleases
from services.retrieval.service import RetrievalService


def create(
    settings: GatewaySettings,
    histories: Histories,
    retrieval: RetrievalService | RetrievalReleases,
    ranking: RankingService | RankingReleases,
    registry: CollectorRegistry,
) -> FastAPI:
    """A service alone is the only release. Others can be loaded where both hosts have a registry."""
    retrievals = retrieval if isinstance(retrieval, RetrievalReleases) else RetrievalReleases(retrieval)
    rankings = ranking if isinstance(ranking, RankingReleases) else RankingReleases(ranking)
    retrievals.watch(Times(registry))
    resources = AsyncExitStack()
    resources.callback(retrievals.close)
    resources.callback(rankings.close)
    hosts = Hosts(retrievals, rankings) if retrievals.loads and rankings.loads else None
    return compose(settings, histories, retrievals.live, rankings.live, resources, registry, hosts=hosts)
