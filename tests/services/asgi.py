"""An application without a socket: its lifespan and its requests in one event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry

from services import embedded
from services.gateway.settings import GatewaySettings
from services.http.caller import Scope
from services.http.routes import Route
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


@dataclass(frozen=True)
class Operation:
    """One method of one route. `path` is a template as in OpenAPI."""

    method: str
    path: str
    needs: Scope | None
    example: Any = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def url(self) -> str:
        """For the user u1 or the item i1."""
        return self.path.format(user_id="u1", item_id="i1")


EXAMPLES: dict[str, Any] = {
    "POST /recommend": {"user_id": "u1", "session_id": "s1", "limit": 5, "exclude_item_ids": ["i9"]},
    "POST /recommend/batch": {"requests": [{"user_id": "u1"}, {"session_id": "s1"}, {"history": ["i1"]}]},
    "POST /rank": {"user_id": "u1", "candidates": ["i4", "i2", "i7"]},
    "POST /rerank": {"query": "i1\ni2", "documents": ["i4", {"text": "Title 2"}], "top_n": 2},
    "POST /events": {"events": [{"event_id": "e1", "user_id": "u1", "item_id": "i8", "timestamp": 5}]},
    "POST /admin/models": {"release": "r1", "as": "live"},
    "PUT /items/{item_id}": {"available": False, "categories": ["Opera"]},
}
"""A body for each operation that takes one, without the version."""


def operations(app: FastAPI) -> list[Operation]:
    """All that the application answers, in its order, each with and without its version."""
    found = []
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        assert isinstance(route, Route), (
            f"{context.path} is no services.http.routes.Route: its JSON would not be strict"
        )
        for method in sorted(context.methods or ()):
            path = str(context.path_format)
            example = EXAMPLES.get(f"{method} {path.removeprefix('/v1')}")
            assert example or not route.body_field, f"{method} {path} takes a body: EXAMPLES needs one"
            found.append(Operation(method, path, route.needs, example))
    return found


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
