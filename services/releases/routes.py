"""PUT, DELETE and GET /releases, of both inner services."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path

from services.http.budget import Inherited
from services.http.caller import needs
from services.http.routes import Router
from services.releases.host import Host
from shared.wire.inner import ReleaseCard, ReleaseId, ReleaseList

BOUND = "/releases/{release}"
"""Under it stand a service's other routes, answered by that release alone."""
Release = Annotated[ReleaseId, Path(description="A release of the service's registry.")]


def routes(host: Host[Any]) -> Router:
    router = Router(dependencies=[needs("internal")])

    @router.put(BOUND, response_model_exclude_none=True, summary="Loaded beside the live one, and tested")
    async def load(release: Release, deadline: Inherited) -> ReleaseCard:
        return await host.load(release, deadline)

    @router.delete(BOUND, response_model_exclude_none=True, summary="Gone from memory; what is loaded now")
    async def unload(release: Release, deadline: Inherited) -> ReleaseList:
        await host.unload(release, deadline)
        return await host.loaded(deadline)

    @router.get("/releases", response_model_exclude_none=True, summary="What is loaded")
    async def loaded(deadline: Inherited) -> ReleaseList:
        return await host.loaded(deadline)

    return router
