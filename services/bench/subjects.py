"""The servers that are compared, each a process: `python -m services.bench.subjects bare|gateway --port N`.

bare: a FastAPI route without middleware that reads the same request and returns the bytes that stand in $BENCH_ANSWER.
gateway: the whole of ours over stand-ins, with the TANDEM_* settings of its environment.
"""

from __future__ import annotations

import argparse
import os
from contextlib import AsyncExitStack

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.responses import Response

from services.bench.standins import Ranking, Retrieval
from services.gateway.app import compose
from services.gateway.settings import GatewaySettings
from services.gateway.stores import NoHistories
from services.http import logs
from services.process import serve
from shared.wire.recommend import RecommendAnswer, RecommendRequest


def bare(answer: bytes) -> FastAPI:
    app = FastAPI()

    @app.post("/recommend", response_model=RecommendAnswer)
    async def recommend(request: RecommendRequest) -> Response:
        return Response(answer, media_type="application/json")

    return app


def gateway(settings: GatewaySettings) -> FastAPI:
    return compose(settings, NoHistories(), Retrieval(), Ranking(), AsyncExitStack(), CollectorRegistry())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=("bare", "gateway"))
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    settings = GatewaySettings()
    logs.configure(settings.log_level)
    app = gateway(settings) if args.subject == "gateway" else bare(os.environ["BENCH_ANSWER"].encode())
    serve(app, "127.0.0.1", args.port, settings)


if __name__ == "__main__":
    main()
