"""POST /recommend/batch: each entry has its own status, and one that fails takes no other with it."""

from __future__ import annotations

import asyncio
import json

from services.gateway.serving import Serving
from services.http.problems import of_error
from shared.deadline import Deadline
from shared.errors import TandemError
from shared.wire.recommend import BatchAnswer, BatchEntry, BatchRequest, RecommendRequest

AT_ONCE = 8
"""A batch takes no more of the gateway than this."""


async def recommend_all(serving: Serving, batch: BatchRequest, asked_ms: float | None, tenant: str) -> BatchAnswer:
    """The budgets run from now on for all entries: who sends 32 at once waits for them together."""
    gate = asyncio.Semaphore(AT_ONCE)
    deadlines = [serving.policy.deadline(request.timeout_ms, asked_ms) for request in batch.requests]

    async def one(request: RecommendRequest, deadline: Deadline) -> BatchEntry:
        async with gate:
            try:
                return BatchEntry(status=200, answer=await serving.recommend(request, deadline, tenant))
            except TandemError as error:
                response = of_error(error, None)
                return BatchEntry(status=response.status_code, problem=json.loads(bytes(response.body)))

    return BatchAnswer(answers=await asyncio.gather(*map(one, batch.requests, deadlines)))
