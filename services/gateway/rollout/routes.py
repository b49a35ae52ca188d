"""The routes of operators: what is served, from now on, and back."""

from __future__ import annotations

from fastapi import Depends

from services.gateway.rollout.rollout import Rollout
from services.gateway.rollout.shadow import Shadow
from services.gateway.rollout.shown import shown
from services.gateway.rollout.watch import Watch
from services.http.caller import Tenant, needs
from services.http.routes import Router
from shared.errors import BadInput, Forbidden
from shared.wire.rollout import RolloutAnswer, ServeRequest

PATH = "/admin/models"


def rollout_routes(rollout: Rollout, watch: Watch, shadow: Shadow, home: str) -> Router:
    """`home`: the tenant whose keys may. What is served is served to all tenants, and none decides for another."""

    async def of_home(tenant: Tenant) -> None:
        if tenant != home:
            raise Forbidden(f"what is served to all tenants is decided with keys of the tenant {home!r} alone")

    router = Router(dependencies=[needs("admin"), Depends(of_home)])

    def answer() -> RolloutAnswer:
        return shown(rollout, watch, shadow)

    @router.get(PATH, response_model_exclude_none=True, summary="Which release is what, and how it does")
    async def models() -> RolloutAnswer:
        return answer()

    @router.post(PATH, response_model_exclude_none=True, summary="Load a release and serve it: live, canary or shadow")
    async def serve(wanted: ServeRequest) -> RolloutAnswer:
        await rollout.serve(wanted)
        return answer()

    @router.post(PATH + "/rollback", response_model_exclude_none=True, summary="Back to the release before, at once")
    async def rollback() -> RolloutAnswer:
        await rollout.back()
        return answer()

    @router.delete(PATH + "/canary", response_model_exclude_none=True, summary="All users are the live release's again")
    async def end_canary() -> RolloutAnswer:
        await rollout.end_canary()
        return answer()

    @router.delete(PATH + "/shadow", response_model_exclude_none=True, summary="No shadow any more")
    async def end_shadow() -> RolloutAnswer:
        await rollout.end_shadow()
        return answer()

    return router


def no_rollout_routes() -> Router:
    """Of a gateway whose services hold the one release that they started with."""
    router = Router(dependencies=[needs("admin")])

    async def refuse() -> RolloutAnswer:
        raise BadInput(
            "this process serves the folders that it was started with, and no other release: start it with --registry"
        )

    @router.post(PATH, response_model_exclude_none=True, summary="Load a release and serve it: live, canary or shadow")
    async def serve(wanted: ServeRequest) -> RolloutAnswer:
        return await refuse()

    for method, path in (("GET", ""), ("POST", "/rollback"), ("DELETE", "/canary"), ("DELETE", "/shadow")):
        about = "Answered where releases can be loaded"
        router.add_api_route(PATH + path, refuse, methods=[method], summary=about)
    return router
