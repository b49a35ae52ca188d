"""Retrieval beside raw FAISS on the same index, in turns within one run: random items, exclusions, batches; the way
through the service; and what a user's kept state saves. Random vectors are the hardest that an index can meet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np

from retriever.build import build
from retriever.index import ItemIndex
from retriever.retrieve import LRURecRetriever
from retriever.states import States
from retriever.threads import alone
from services.bench.encode import HISTORIES, ROOM, encode
from services.bench.indexes import others
from services.bench.machine import load_average, machine
from services.bench.made_up import USERS, D, made_up, model_of
from services.bench.processes import redis_binary
from services.bench.timing import CALLS, figures, timed
from services.retrieval.service import RetrievalService
from shared.catalog import Catalog, Item
from shared.deadline import Deadline
from shared.wire.inner import ModelCard, RetrieveRequest

K, EXCLUDED, TOGETHER = 20, 50, 32
MIN_ITEMS = 1_000
SERVED_UP_TO = 100_000
"""A larger catalogue's ids and titles are memory that has nothing to do with the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """seconds: of each comparison.  others: at so many items a graph and an inverted list are built as well; 0: not."""

    sizes: tuple[int, ...] = (12_000, 100_000, 1_000_000, 5_000_000)
    seconds: float = 6.0
    others: int = 100_000


def run(settings: Settings, said: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Raises BadInput where there is no redis-server for the states."""
    redis_binary()
    sizes = []
    for items in settings.sizes:
        sizes.append(_size(items, settings))
        said(_line(sizes[-1]))
    report: dict[str, Any] = {
        "settings": asdict(settings) | {"width": D, "k": K, "excluded": EXCLUDED},
        "machine": machine() | {"faiss": faiss.__version__, "load_average": load_average()},
        "sizes": sizes,
        "others": others(*made_up(settings.others), settings.seconds / 3, said) if settings.others else [],
        "encode": encode(settings.seconds / 2),
    }
    for row in report["encode"]:
        said(f"history of {row['items']:>3}   " + "   ".join(f"{way} {ms:.3f} ms" for way, ms in row["ms"].items()))
    return report


def _size(items: int, settings: Settings) -> dict[str, Any]:
    items_ND, bias_N, users_BD = made_up(items)
    rng = np.random.default_rng(1)
    began = time.perf_counter()
    index, report = build(items_ND, bias_N, users_BD)
    build_s = time.perf_counter() - began
    exclude: list[list[int]] = [rng.choice(items, EXCLUDED, replace=False).tolist() for _ in users_BD]
    queries = np.hstack([users_BD, np.ones((USERS, 1), dtype=np.float32)])
    calls: dict[str, Callable[[int], object]] = {
        "raw": lambda turn: index.raw.search(queries[turn % USERS, None], K),
        "ours": lambda turn: index.search(users_BD[turn % USERS, None], K, [exclude[turn % USERS]]),
        f"ours, {TOGETHER} at once": lambda turn: index.search(users_BD[:TOGETHER], K, exclude[:TOGETHER]),
    }
    if index.kind == "flat":
        calls["raw, selector"] = lambda turn: index.raw.search(
            queries[turn % USERS, None], K, params=_selector(exclude[turn % USERS])
        )
    figures_ms = timed(calls, settings.seconds)
    if items <= SERVED_UP_TO:
        figures_ms |= asyncio.run(_served(items_ND, bias_N, index, settings.seconds))
    return {
        "items": items,
        "kind": index.kind,
        "effort": index.effort,
        "recall": report.recall,
        "recall_with_exclusions": _recall(index, items_ND, bias_N, users_BD, exclude),
        "build_s": round(build_s, 2),
        "bytes_per_item": index.bytes_per_item,
        "ms": figures_ms,
        "over_raw": _ratio(figures_ms, "ours", "raw"),
        "over_selector": _ratio(figures_ms, "ours", "raw, selector"),
    }


async def _served(
    items_ND: np.ndarray, bias_N: np.ndarray, index: ItemIndex, seconds: float
) -> dict[str, dict[str, float]]:
    """POST /retrieve without HTTP: ids in and out, the hop to the worker, encoding, search. One after the other, where
    each request is a known history with one more item, and 32 at once."""
    model = model_of(items_ND, bias_N)
    retriever = LRURecRetriever(model, index, HISTORIES[-1])
    retriever.remember(States("bench", ROOM))
    catalog = Catalog(tuple(Item(str(n), f"Title {n}") for n in range(1, len(index) + 1)))
    card = ModelCard(name="lrurec@00000000", method="lrurec", catalog=catalog.fingerprint()[:12])
    service = RetrievalService(catalog, retriever, retriever, card, prepare=alone)
    rng = np.random.default_rng(1)
    histories = rng.integers(1, len(index) + 1, (USERS, EXCLUDED))
    retriever.encode(list(histories))
    known = [[str(item) for item in history] for history in histories]
    taken: dict[str, list[float]] = {"service": [], f"service, {TOGETHER} at once": []}
    until = time.perf_counter() + seconds
    while not taken["service"] or (time.perf_counter() < until and len(taken["service"]) < CALLS):
        for at_once, each in zip((1, TOGETHER), taken.values(), strict=True):
            first = len(each) % USERS
            asked = []
            for n in range(first, first + at_once):
                one_more = str(rng.integers(1, len(index) + 1))
                asked.append(RetrieveRequest(history=[*known[n % USERS], one_more], k=K))
            began = time.perf_counter()
            await asyncio.gather(*(service.retrieve(one, Deadline.after_ms(60_000)) for one in asked))
            each.append(time.perf_counter() - began)
    service.close()
    return {name: figures(each[1:] or each) for name, each in taken.items()}


def _recall(
    index: ItemIndex, items_ND: np.ndarray, bias_N: np.ndarray, users_BD: np.ndarray, exclude: Sequence[Sequence[int]]
) -> float:
    """Against the scores of all items, by numpy."""
    hits = 0
    for user_D, banned, found in zip(users_BD, exclude, index.search(users_BD, K, exclude), strict=True):
        scores_N = items_ND @ user_D + bias_N
        scores_N[np.asarray(banned) - 1] = -np.inf
        best = np.argpartition(-scores_N, K)[:K] + 1
        hits += len({candidate.item for candidate in found} & set(best.tolist()))
    return round(hits / (K * len(users_BD)), 4)


def _selector(excluded: Sequence[int]) -> Any:
    parameters: Any = faiss.SearchParameters
    return parameters(sel=faiss.IDSelectorNot(faiss.IDSelectorBatch(np.asarray(excluded) - 1)))


def _ratio(ms: Mapping[str, Mapping[str, float]], one: str, other: str) -> float | None:
    return round(ms[one]["p50"] / ms[other]["p50"], 3) if other in ms else None


def _line(size: dict[str, Any]) -> str:
    ms = {name: figures["p50"] for name, figures in size["ms"].items()}
    served = f"   service {ms['service']:.3f} ms" if "service" in ms else ""
    return (
        f"{size['items']:>9,} items   {size['kind']:<4}   raw {ms['raw']:.3f} ms   ours {ms['ours']:.3f} ms   "
        f"{size['over_raw']:.2f} of it   recall {size['recall']:.4f}   {size['bytes_per_item']} B an item   "
        f"built in {size['build_s']:.1f} s{served}"
    )
