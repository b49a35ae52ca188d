"""`tandem bench retrieve|e2e`: the first stage beside raw FAISS, and the whole of it over sockets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Retrieve:
    """Random items, 20 of them with 50 excluded: our index beside raw FAISS on the same one, alone, in batches and
    through the service; recall, memory and build time; other kinds of index; and encoding from a kept state.
    """

    items: tuple[int, ...] = (12_000, 100_000, 1_000_000, 5_000_000)
    """Sizes of the catalogue; five million take 6 GiB of memory while they are built."""
    seconds: float = 6.0
    """Of each comparison."""
    others: int = 100_000
    """At so many items HNSW and IVF are built as well; 0: not."""
    json: Path | None = None
    """Also write everything to this file."""
    plot: Path | None = None
    """Also draw times by size, and encoding (PNG)."""


@dataclass(frozen=True, kw_only=True)
class E2e:
    """Three services, a redis-server and a load generator as processes: POST /recommend ranked by the language model,
    out of the cache, and in the retriever's order.

    Throughput in a closed loop; latency in an open one at a share of that, also beside a client that reads a byte a
    second, and over 200 connections.
    """

    data: Path = Path("artifacts/demo/ml-100k")
    """The prepared data folder; the default is what `make demo` leaves."""
    retriever: Path = Path("artifacts/demo/retriever")
    """The retriever's artifact."""
    ranker: Path = Path("ranker/shipped/llamarec-ml-100k")
    """The ranker's artifact."""
    seconds: float = 12.0
    """Of each measurement; of those with the language model twice as long."""
    load: float = 0.5
    """The share of its own throughput at which a latency is measured."""
    connections: int = 16
    """Kept open by the load generator."""
    json: Path | None = None
    """Also write everything to this file."""
    plot: Path | None = None
    """Also draw latencies and stages (PNG)."""


def run(args: Retrieve | E2e) -> None:
    match args:
        case Retrieve():
            _retrieve(args)
        case E2e():
            _e2e(args)


def _retrieve(args: Retrieve) -> None:
    from services.bench import plots
    from services.bench.retrieve import MIN_ITEMS, Settings
    from services.bench.retrieve import run as bench

    if not args.items or min(args.items) < MIN_ITEMS or 0 < args.others < MIN_ITEMS:
        raise BadInput(f"--items and --others: give sizes of at least {MIN_ITEMS} items")
    settings = Settings(sizes=args.items, seconds=args.seconds, others=args.others)
    report = bench(settings, said=lambda line: print(line, flush=True))
    _kept(report, args.json)
    if args.plot:
        plots.retrieve(report, args.plot)


def _e2e(args: E2e) -> None:
    from services.bench import plots
    from services.bench.e2e import Settings
    from services.bench.e2e import run as bench

    if not 0 < args.load < 1:
        raise BadInput(f"--load {args.load}: a share of the throughput, between 0 and 1")
    settings = Settings(
        data=args.data,
        retriever=args.retriever,
        ranker=args.ranker,
        seconds=args.seconds,
        load=args.load,
        connections=args.connections,
    )
    report = bench(settings, said=lambda line: print(line, flush=True))
    _kept(report, args.json)
    if args.plot:
        plots.e2e(report, args.plot)


def _kept(report: dict[str, Any], path: Path | None) -> None:
    if path:
        from shared.artifact import write_text

        write_text(path, json.dumps(report, indent=2) + "\n")
