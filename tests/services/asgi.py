"""An application without a socket: its lifespan and its requests in one event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services import embedded
from services.gateway.settings import GatewaySettings
from services.ranking.service import RankingService
from services.retrieval.service import RetrievalService
from shared.catalog import Catalog
from tests import fakes


@asynccontextmanager
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tandem") as one,
    ):
        yield one


def embedded_app(
    settings: GatewaySettings | None = None,
    retrieval: RetrievalService | None = None,
    ranking: RankingService | None = None,
    items: Catalog | None = None,
) -> FastAPI:
    items = items or fakes.catalog()
    return embedded.create(
        settings or GatewaySettings(),
        fakes.histories(),
        retrieval or fakes.retrieval_service(items),
        ranking or fakes.ranking_service(items),
        CollectorRegistry(),
    )
