"""Other kinds of index on the same random items: what each must do for 99 of 100, and what that takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from retriever.build import MIN_RECALL, build
from retriever.index import ItemIndex, K, rows_of

LISTS_VISITED = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
GRAPH_EFFORTS = (128, 256, 512, 1024, 2048, 4096)
LINKS, CONSTRUCTION = 32, 40
_faiss: Any = faiss  # its stubs do not know all arguments
Search = Callable[[np.ndarray, Any], Any]


def others(
    items_ND: np.ndarray, bias_N: np.ndarray, users_BD: np.ndarray, seconds: float, said: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Flat, scan, graph (HNSW over the inner product) and inverted lists, each at the least effort that is enough."""
    vectors_ND = rows_of(items_ND, bias_N)
    queries = rows_of(users_BD, np.ones(len(users_BD)))
    exact = ItemIndex.build(items_ND, bias_N).raw.search(queries, K)[1]
    rows = []
    for kind, made in (("flat", _flat), ("scan", _scan), ("HNSW", _graph), ("IVF", _lists)):
        began = time.perf_counter()
        search, efforts = made(vectors_ND)
        built_s = time.perf_counter() - began
        effort, recall, parameters = _enough(search, efforts, queries, exact)
        row = {
            "kind": kind,
            "items": len(vectors_ND),
            "build_s": round(built_s, 2),
            "effort": effort,
            "recall": recall,
            "p50_ms": _median_ms(search, parameters, queries, seconds),
        }
        rows.append(row)
        said(f"{len(vectors_ND):>9,} items   " + "   ".join(f"{key} {value}" for key, value in row.items()))
    return rows


def _enough(search: Search, efforts: dict[str, Any], queries: np.ndarray, exact: np.ndarray) -> tuple[str, float, Any]:
    """The least effort with MIN_RECALL, or the greatest there is."""
    tried = []
    for effort, parameters in efforts.items():
        found = search(queries, parameters)[1].tolist()
        recall = float(np.mean([len({*one} & {*best}) / K for one, best in zip(found, exact.tolist(), strict=True)]))
        tried.append((effort, round(recall, 4), parameters))
        if recall >= MIN_RECALL:
            break
    return tried[-1]


def _flat(vectors_ND: np.ndarray) -> tuple[Search, dict[str, Any]]:
    index = ItemIndex.build(vectors_ND[:, :-1], vectors_ND[:, -1]).raw
    return lambda queries, parameters: index.search(queries, K), {"all": None}


def _scan(vectors_ND: np.ndarray) -> tuple[Search, dict[str, Any]]:
    index, report = build(vectors_ND[:, :-1], vectors_ND[:, -1], flat_up_to=0)
    return lambda queries, parameters: index.raw.search(queries, K), {f"{report.effort} in full": None}


def _graph(vectors_ND: np.ndarray) -> tuple[Search, dict[str, Any]]:
    index = faiss.IndexHNSWFlat(vectors_ND.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = CONSTRUCTION
    _faiss.IndexHNSWFlat.add(index, vectors_ND)
    efforts = {f"ef {ef}": _faiss.SearchParametersHNSW(efSearch=ef) for ef in GRAPH_EFFORTS}
    return lambda queries, parameters: index.search(queries, K, params=parameters), efforts


def _lists(vectors_ND: np.ndarray) -> tuple[Search, dict[str, Any]]:
    count = 4 * math.isqrt(len(vectors_ND))
    index = _faiss.index_factory(vectors_ND.shape[1], f"IVF{count},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors_ND[: 50 * count])
    index.add(vectors_ND)
    visited = [max(1, round(share * count)) for share in LISTS_VISITED]
    efforts = {f"{n} of {count} lists": _faiss.SearchParametersIVF(nprobe=n) for n in visited}
    return lambda queries, parameters: index.search(queries, K, params=parameters), efforts


def _median_ms(search: Search, parameters: Any, queries: np.ndarray, seconds: float) -> float:
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < until:
        query = queries[len(taken) % len(queries)][None]
        began = time.perf_counter()
        search(query, parameters)
        taken.append(time.perf_counter() - began)
    return round(float(np.median(taken)) * 1000, 3)
