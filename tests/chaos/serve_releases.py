"""`python -m tests.chaos.serve_releases retrieval|ranking --port N`: the real processes, which load whatever release
stands on the shelf, with fakes for models.

FAKE_SHELF  a JSON file: release to what it is. seconds: what its ranker takes.  nan: what that scores, at present.
            corrupt: cannot be loaded.  items: of its catalogue.  service: the one service that this is so for.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from services.http import logs
from services.loading import batcher
from services.process import serve
from services.ranking import app as ranking
from services.ranking.batcher import Batcher
from services.ranking.releases import RankingReleases
from services.ranking.service import RankingService, Served
from services.ranking.settings import RankingSettings
from services.retrieval import app as retrieval
from services.retrieval.releases import RetrievalReleases
from services.retrieval.service import RetrievalService
from services.retrieval.settings import RetrievalSettings
from shared.candidate import Candidate, Ranking
from shared.catalog import Catalog
from shared.errors import ChecksumMismatch, UnknownRelease
from shared.history import History
from shared.wire.inner import ModelCard
from tests import fakes

START = "r0"
ITEMS = 400


def of(release: str) -> dict[str, Any]:
    """As the shelf says at present."""
    shelf: dict[str, dict[str, Any]] = json.loads(Path(os.environ["FAKE_SHELF"]).read_text())
    return shelf[release]


def checked(release: str, service: str) -> Catalog:
    try:
        about = of(release)
    except KeyError:
        raise UnknownRelease(f"the registry holds no release {release!r}") from None
    here = about.get("service", service) == service
    if here and about.get("corrupt"):
        raise ChecksumMismatch(f"release {release!r}: model.safetensors was changed or damaged")
    return fakes.catalog(about.get("items", ITEMS) if here else ITEMS)


def retriever(release: str) -> RetrievalService:
    items = checked(release, "retrieval")
    card = ModelCard(name=f"lrurec@{release}", method="lrurec", catalog=items.fingerprint()[:12])
    return RetrievalService(items, fakes.FakeRetriever(len(items)), fakes.FakePopularity(len(items)), card)


class Ranker(fakes.FakeRanker):
    def __init__(self, release: str) -> None:
        super().__init__()
        self._release = release

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        about = of(self._release)
        time.sleep(about.get("seconds", 0.0))
        rankings = super().rank(histories, candidates)
        if not about.get("nan"):
            return rankings
        return [Ranking(tuple(Candidate(c.item, math.nan) for c in one.candidates)) for one in rankings]


def rankers(queue: Batcher, release: str) -> RankingService:
    items = checked(release, "ranking")
    card = ModelCard(name=f"llamarec@{release}", method="llamarec", catalog=items.fingerprint()[:12])
    return RankingService(items, {"llamarec": Served(Ranker(release), card, lambda: None)}, queue)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("service", choices=("retrieval", "ranking"))
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    if args.service == "retrieval":
        settings = RetrievalSettings()
        logs.configure(settings.log_level)
        app = retrieval.create(settings, RetrievalReleases(retriever(START), START, retriever))
        serve(app, "127.0.0.1", args.port, settings)
    else:
        own, registry = RankingSettings(), CollectorRegistry()
        logs.configure(own.log_level)
        queue = batcher(own, registry)
        live = rankers(queue, START)
        live.self_test()
        releases = RankingReleases(live, START, lambda release: rankers(queue, release))
        serve(ranking.create(own, releases, registry), "127.0.0.1", args.port, own)


if __name__ == "__main__":
    main()
