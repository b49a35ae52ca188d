"""/livez: the process turns. /readyz: it can do its work. /metrics: Prometheus text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import Response

from services.http.caller import needs
from services.http.problems import DOCUMENTED
from services.http.routes import Router
from shared.errors import Unavailable

METRICS = "/metrics"
PROBES = frozenset({"/livez", "/readyz"})
"""Open to everybody, whatever keys are set."""
ALWAYS = PROBES | {METRICS}
"""Never refused for overload: a busy process must still say that it lives, and how busy it is."""

LOCKED: dict[int | str, dict[str, Any]] = {status: DOCUMENTED[status] for status in (401, 403, 429)}

Ready = Callable[[], str | None]
"""Why the process can't work yet, or None when it can."""


def routes(ready: Ready, registry: CollectorRegistry) -> APIRouter:
    router = Router(tags=["health"], responses={})

    @router.get("/livez", summary="The process turns")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", summary="The process can do its work", responses={503: DOCUMENTED[503]})
    async def readyz() -> dict[str, str]:
        if reason := ready():
            raise Unavailable(reason)
        return {"status": "ready"}

    @router.get(
        METRICS, summary="Prometheus metrics", response_class=Response, dependencies=[needs("admin")], responses=LOCKED
    )
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return router
