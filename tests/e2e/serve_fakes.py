"""`python -m tests.e2e.serve_fakes SERVICE --port N`: the real processes, with fakes where the models would be.

FAKE_ITEMS        how many the catalogue has
FAKE_RANKER       the method that the ranking service serves
FAKE_RANK_SECONDS what one batch takes
FAKE_FAULT        a file that says what is wrong with the models at present: fewer, nothing, duplicates, unknown or seen
                  (retrieval), nan, crash, die or hang (ranking); no file: nothing is
"""

from __future__ import annotations

import argparse
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

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
from services.retrieval.service import RetrievalService
from services.retrieval.settings import RetrievalSettings
from shared.candidate import Candidate, Ranking
from shared.catalog import Catalog
from shared.deadline import Deadline
from shared.history import History
from shared.wire.base import RankerName
from shared.wire.inner import ModelCard, RetrieveAnswer, RetrievedItem, RetrieveRequest
from tests import fakes

Items = list[RetrievedItem]
RETRIEVES: dict[str, Callable[[Items], Items]] = {
    "fewer": lambda items: items[:5],
    "nothing": lambda items: [],
    "duplicates": lambda items: [item for item in items[: len(items) // 2] for _ in "12"],
    "unknown": lambda items: [RetrievedItem(item_id="ghost", score=1e9), *items[1:]],
    "seen": lambda items: [RetrievedItem(item_id="i3", score=1e9), *items],
}


def fault() -> str:
    try:
        return Path(os.environ["FAKE_FAULT"]).read_text()
    except (KeyError, FileNotFoundError):
        return ""


class FaultyRetrieval(RetrievalService):
    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer:
        found = await super().retrieve(request, deadline)
        distort = RETRIEVES.get(fault(), lambda items: items)
        return found.model_copy(update={"items": distort(found.items)})


class FaultyRanker(fakes.FakeRanker):
    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        rankings = super().rank(histories, candidates)
        match fault():
            case "nan":
                return [Ranking(tuple(Candidate(c.item, math.nan) for c in one.candidates)) for one in rankings]
            case "crash":
                raise RuntimeError("out of memory")
            case "die":
                raise SystemExit
            case "hang":
                threading.Event().wait()
        return rankings


def retrieval_service(items: Catalog) -> RetrievalService:
    card = ModelCard(name="lrurec@0000aaaa", method="lrurec", catalog=items.fingerprint()[:12])
    models = fakes.FakeRetriever(len(items)), fakes.FakePopularity(len(items))
    return FaultyRetrieval(items, *models, card)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("service", choices=("all", "gateway", "retrieval", "ranking"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    args = parser.parse_args()
    items = fakes.catalog(int(os.environ.get("FAKE_ITEMS", "60")))
    ranker = FaultyRanker(seconds=float(os.environ.get("FAKE_RANK_SECONDS", "0")))
    method = cast(RankerName, os.environ.get("FAKE_RANKER", "llamarec"))
    registry = CollectorRegistry()
    rank = RankingSettings()
    logs.configure(rank.log_level)
    if args.service == "all":
        settings = GatewaySettings()
        two = retrieval_service(items), fakes.ranking_service(items, ranker, method, batcher(rank, registry))
        serve(embedded.create(settings, fakes.histories(), *two, registry), args.host, args.port, settings)
    elif args.service == "gateway":
        settings = GatewaySettings()
        serve(gateway.create(settings, fakes.histories()), args.host, args.port, settings)
    elif args.service == "retrieval":
        own = RetrievalSettings()
        serve(retrieval.create(own, retrieval_service(items)), args.host, args.port, own)
    else:
        service = fakes.ranking_service(items, ranker, method, batcher(rank, registry))
        app = ranking.create(rank, service, registry)
        serve(app, args.host, args.port, rank)


if __name__ == "__main__":
    main()
