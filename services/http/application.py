"""One FastAPI application the way all three services build theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry, ProcessCollector

from services.http import docs, health, problems, tracing
from services.http.admission import Admission
from services.http.door import Door, Known, everybody
from services.http.intake import Intake
from services.http.observe import Observe
from services.http.rates import Rates
from services.http.settings import HttpSettings
from services.http.signature import SignedBody

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def application(
    title: str,
    routers: Sequence[APIRouter],
    ready: health.Ready,
    settings: HttpSettings,
    registry: CollectorRegistry,
    lifespan: Lifespan,
    description: str = "",
    known: Known = everybody,
    rates: Rates | None = None,
) -> FastAPI:
    """Every route also stands under /v1, except the health ones."""
    app = FastAPI(title=title, description=description, version="1", lifespan=lifespan, openapi_url=None)
    problems.install(app)
    ProcessCollector(registry=registry)
    # Not included but taken over: FastAPI 0.165 matches an included route twice, which is 10 of some 100 microseconds.
    for router in (*routers, health.routes(ready, registry), docs.routes(app)):
        app.router.routes.extend(router.routes)
    for router in routers:
        app.include_router(router, prefix="/v1")
    token = settings.metrics_token.get_secret_value() if settings.metrics_token else None
    # The last one added is the outermost.
    app.add_middleware(SignedBody)
    app.add_middleware(Intake, max_bytes=settings.max_body_bytes, max_seconds=settings.max_body_seconds)
    app.add_middleware(
        Admission,
        max_concurrency=settings.max_concurrency,
        max_waiting=settings.max_waiting,
        max_wait_ms=settings.max_wait_ms,
    )
    app.add_middleware(Door, known=known, rates=rates or Rates(), metrics_token=token)
    tracing.configure(settings.otlp_endpoint, title.lower().replace(" ", "-"))
    if tracing.is_on():
        app.add_middleware(tracing.Traced, service=title)
    app.add_middleware(Observe, registry=registry)
    return app
