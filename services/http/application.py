"""One FastAPI application the way all three services build theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry, ProcessCollector

from services.http import health, problems
from services.http.admission import Admission
from services.http.body import BodyLimit
from services.http.departure import Departure
from services.http.observe import Observe
from services.http.settings import HttpSettings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def application(
    title: str,
    routers: Sequence[APIRouter],
    ready: health.Ready,
    settings: HttpSettings,
    registry: CollectorRegistry,
    lifespan: Lifespan,
    description: str = "",
) -> FastAPI:
    """Every route also stands under /v1, except the health ones."""
    app = FastAPI(title=title, description=description, version="1", lifespan=lifespan, redoc_url=None)
    problems.install(app)
    ProcessCollector(registry=registry)
    app.include_router(health.routes(ready, registry))
    for router in routers:
        app.include_router(router, responses=problems.DOCUMENTED)
        app.include_router(router, prefix="/v1", responses=problems.DOCUMENTED)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, max_seconds=settings.max_body_seconds)
    app.add_middleware(Departure)
    app.add_middleware(Admission, max_concurrency=settings.max_concurrency)
    app.add_middleware(Observe, registry=registry)
    return app
