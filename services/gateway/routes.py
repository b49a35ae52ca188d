"""The gateway's own routes, over the use cases. State has its own: routes_state.py."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from starlette.responses import Response

from services.gateway.batch import recommend_all
from services.gateway.direct import DirectRoute
from services.gateway.policy import Policy
from services.gateway.ports import RankingPort, RetrievalPort
from services.gateway.serving import Serving
from services.http.caller import Tenant, needs
from services.http.routes import Route, Router
from shared.errors import TandemError
from shared.wire.base import MAX_TIMEOUT_MS
from shared.wire.inner import ModelList
from shared.wire.recommend import (
    BatchAnswer,
    BatchRequest,
    RankItemsRequest,
    RecommendAnswer,
    RecommendRequest,
    RerankAnswer,
    RerankRequest,
)

AskedMs = Annotated[
    int | None,
    Header(alias="X-Request-Timeout-Ms", ge=1, le=MAX_TIMEOUT_MS, description="A bound beside timeout_ms."),
]
EnvoyMs = Annotated[
    int | None,
    Header(alias="X-Envoy-Expected-Rq-Timeout-Ms", ge=0, description="What Envoy will wait; 0: for ever."),
]
JSON = "application/json"


async def asked_ms(asked: AskedMs = None, envoy: EnvoyMs = None) -> float | None:
    """The shortest bound that the headers name, MAX_TIMEOUT_MS at most."""
    return min((min(ms, MAX_TIMEOUT_MS) for ms in (asked, envoy) if ms), default=None)


Bound = Annotated[float | None, Depends(asked_ms)]


def routes(serving: Serving, policy: Policy) -> APIRouter:
    router = Router(dependencies=[needs("read")], route_class=DirectRoute)

    # Answers are given as bytes: they are validated already, and FastAPI would do it once more.
    @router.post("/recommend", response_model=RecommendAnswer, summary="The next items for one user")
    async def recommend(request: RecommendRequest, tenant: Tenant, bound: Bound) -> Response:
        answer = await serving.recommend(request, policy.deadline(request.timeout_ms, bound), tenant)
        return Response(answer.model_dump_json(exclude_none=True), media_type=JSON)

    @router.post("/recommend/batch", response_model=BatchAnswer, summary="Up to 32 at once, each with its status")
    async def batch(request: BatchRequest, tenant: Tenant, bound: Bound) -> Response:
        answers = await recommend_all(serving, request, bound, tenant)
        return Response(answers.model_dump_json(exclude_none=True), media_type=JSON)

    @router.post("/rank", response_model=RecommendAnswer, summary="The caller's own candidates, best first")
    async def rank(request: RankItemsRequest, tenant: Tenant, bound: Bound) -> Response:
        answer = await serving.rank(request, policy.deadline(request.timeout_ms, bound), tenant)
        return Response(answer.model_dump_json(exclude_none=True), media_type=JSON)

    @router.post("/rerank", response_model=RerankAnswer, summary="The same in the shape of Jina and Cohere")
    async def rerank(request: RerankRequest, tenant: Tenant, bound: Bound) -> Response:
        answer = await serving.rerank(request, policy.deadline(bound), tenant)
        return Response(answer.model_dump_json(exclude_none=True), media_type=JSON)

    async def models() -> ModelList:
        return await _models(serving.live.retrieval, serving.live.ranking, policy)

    about = "What is loaded, as far as it answers"
    router.add_api_route("/models", models, response_model_exclude_none=True, summary=about, route_class_override=Route)
    return router


async def _models(retrieval: RetrievalPort, ranking: RankingPort, policy: Policy) -> ModelList:
    """A service that is down is left out rather than failing the list."""
    deadline = policy.deadline()
    lists = await asyncio.gather(retrieval.models(deadline), ranking.models(deadline), return_exceptions=True)
    for found in lists:
        if isinstance(found, BaseException) and not isinstance(found, TandemError):
            raise found
    answered = [found for found in lists if isinstance(found, ModelList)]
    default = policy.default_ranker or next((found.default for found in reversed(answered) if found.default), None)
    return ModelList(models=[card for found in answered for card in found.models], default=default)
