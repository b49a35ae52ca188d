"""`python -m tests.e2e.serve_fakes SERVICE --port N`: the real processes, with fakes where the models would be."""

from __future__ import annotations

import argparse
import os

from prometheus_client import CollectorRegistry

from services import embedded
from services.gateway import app as gateway
from services.gateway.settings import GatewaySettings
from services.http import logs
from services.loading import batcher
from services.process import serve
from services.ranking import app as ranking
from services.ranking.settings import RankingSettings
from services.retrieval import app as retrieval
from services.retrieval.settings import RetrievalSettings
from tests import fakes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("service", choices=("all", "gateway", "retrieval", "ranking"))
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    items = fakes.catalog(int(os.environ.get("FAKE_ITEMS", "60")))
    slow = fakes.FakeRanker(seconds=float(os.environ.get("FAKE_RANK_SECONDS", "0")))
    registry = CollectorRegistry()
    logs.configure("info")
    rank = RankingSettings()
    if args.service == "all":
        settings = GatewaySettings()
        ranker = fakes.ranking_service(items, slow, batcher=batcher(rank, registry))
        two = fakes.retrieval_service(items), ranker
        serve(embedded.create(settings, fakes.histories(), *two, registry), "127.0.0.1", args.port, settings)
    elif args.service == "gateway":
        settings = GatewaySettings()
        serve(gateway.create(settings, fakes.histories()), "127.0.0.1", args.port, settings)
    elif args.service == "retrieval":
        own = RetrievalSettings()
        serve(retrieval.create(own, fakes.retrieval_service(items)), "127.0.0.1", args.port, own)
    else:
        ranker = fakes.ranking_service(items, slow, batcher=batcher(rank, registry))
        app = ranking.create(rank, ranker, registry)
        serve(app, "127.0.0.1", args.port, rank)


if __name__ == "__main__":
    main()
