"""All three services in one process: the gateway's ports are the services themselves, with no network between."""

from __future__ import annotations

from contextlib import AsyncExitStack

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.gateway.app import compose
from services.gateway.ports import Histories
from services.gateway.settings import GatewaySettings
from services.ranking.service import RankingService
from services.retrieval.metrics import Times
from services.retrieval.service import RetrievalService


def create(
    settings: GatewaySettings,
    histories: Histories,
    retrieval: RetrievalService,
    ranking: RankingService,
    registry: CollectorRegistry,
) -> FastAPI:
    retrieval.took = Times(registry)
    resources = AsyncExitStack()
    resources.callback(retrieval.close)
    resources.callback(ranking.close)
    return compose(settings, histories, retrieval, ranking, resources, registry)
