"""The routes of all three services: the scope is checked before the body is read, and JSON is taken at its word."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from fastapi import APIRouter, params
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from services.http.caller import Needs, Scope, require
from services.http.problems import DOCUMENTED
from services.http.strict import parse

BEARER, API_KEY, SIGNATURE = "bearer", "apiKey", "signature"
"""The names of the security schemes in the OpenAPI document; docs.py says what they are."""
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRequest(Request):
    async def json(self) -> Any:
        """Raises JSONDecodeError, which FastAPI turns into its own kind of error."""
        return parse(await self.body())


class Route(APIRoute):
    """`needs` is the scope that the route or its router declares; where both do, the route's own counts."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        dependencies: Sequence[params.Depends] | None = None,
        **options: Any,
    ) -> None:
        declared = [one.dependency.scope for one in dependencies or () if isinstance(one.dependency, Needs)]
        others = [one for one in dependencies or () if not isinstance(one.dependency, Needs)]
        self.needs: Scope | None = declared[-1] if declared else None
        options["openapi_extra"] = _security(self.needs) | (options.get("openapi_extra") or {})
        super().__init__(path, endpoint, dependencies=others, **options)

    def get_route_handler(self) -> Handler:
        handle, needed = super().get_route_handler(), self.needs

        async def strict(request: Request) -> Response:
            if needed is not None:
                require(request.scope, needed)
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


def _security(needed: Scope | None) -> dict[str, Any]:
    if needed is None:
        return {}
    schemes = [SIGNATURE] if needed == "internal" else [BEARER, API_KEY]
    return {"security": [{scheme: [needed]} for scheme in schemes]}


class Router(APIRouter):
    """An APIRouter of such routes, which documents every status that any of them can have."""

    def __init__(
        self,
        *,
        route_class: type[Route] = Route,
        responses: dict[int | str, dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        responses = DOCUMENTED if responses is None else responses
        super().__init__(route_class=route_class, responses=responses, **options)
