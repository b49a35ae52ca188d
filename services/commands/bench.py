"""`tandem bench`: figures of this machine, measured side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from shared.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """POST /recommend on cache hits against a bare FastAPI route that returns the same bytes.

    Throughput with a closed loop, latency with an open one at a share of the gateway's throughput. Starts all servers
    itself, a redis-server among them.
    """

    rounds: int = 5
    """In each, every variant has its turn; figures are medians over them."""
    seconds: float = 5.0
    """Of each measurement."""
    connections: int = 16
    """Kept open by the load generator."""
    load: float = 0.5
    """The share of the slowest gateway's throughput at which latencies are compared."""
    json: Path | None = None
    """Also write everything to this file."""
    plot: Path | None = None
    """Also draw throughput and latency into this file (PNG)."""


@dataclass(frozen=True, kw_only=True)
class Rankers:
    """Each ranker alone in a process: milliseconds a request, forward passes and tokens of its language model, memory.

    Every user is asked about twice: first with nothing known, then again with the same history and new candidates.
    """

    data: Path = Path("artifacts/demo/ml-100k")
    """The prepared data folder; the default is what `make demo` leaves."""
    retriever: Path = Path("artifacts/demo/retriever")
    """The retriever's artifact: it proposes the candidates."""
    ranker: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = ()
    """A ranker's artifact; repeat it. Without any, the four shipped ones."""
    users: int = 24
    """Asked one after another, after one to warm up."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: Path | None = None
    """Also write everything to this file."""
    plot: Path | None = None
    """Also draw times and memory into this file (PNG)."""


def run(args: Gateway | Rankers) -> None:
    match args:
        case Gateway():
            _gateway(args)
        case Rankers():
            _rankers(args)


def _rankers(args: Rankers) -> None:
    from services.bench.rankers import Settings
    from services.bench.rankers import run as bench
    from services.commands.demo import shipped

    if args.users < 1:
        raise BadInput(f"--users {args.users}: ask about at least 1")
    settings = Settings(
        data=args.data,
        retriever=args.retriever,
        rankers=args.ranker or tuple(shipped()),
        users=args.users,
        device=args.device,
    )
    report = bench(settings, said=lambda line: print(line, flush=True))
    columns = ("first", "p90", "passes", "tokens", "again", "p90", "passes", "tokens", "MiB", "layers")
    print(f"\n{'ms a request':<12}" + "".join(f"{column:>8}" for column in columns))
    for name, one in report["rankers"].items():
        figures = [one[kind][key] for kind in ("first", "again") for key in ("p50_ms", "p90_ms", "passes", "tokens")]
        cells = [f"{figure:>8.1f}" for figure in figures]
        print(f"{name:<12}" + "".join(cells) + f"{one['peak_mib']:>8.0f}{one['layers'] or 'all':>8}")
    print(f"all of them over one backbone in one process: {report['together']['peak_mib']:.0f} MiB")
    if args.json:
        from shared.artifact import write_text

        write_text(args.json, json.dumps(report, indent=2) + "\n")
    if args.plot:
        from services.bench.plots import rankers

        rankers(report, args.plot)


def _gateway(args: Gateway) -> None:
    from services.bench.gateway import Settings
    from services.bench.gateway import run as bench

    settings = Settings(rounds=args.rounds, seconds=args.seconds, connections=args.connections, load=args.load)
    report = bench(settings, said=lambda line: print(line, flush=True))
    print(f"\n{'':<15} {'throughput':>10} {'CPU':>6} {'added p50':>10} {'added p99':>10}   (beside the bare route)")
    for name, one in report["beside_bare"].items():
        print(
            f"{name:<15} {one['throughput_ratio']:>9.2f}x {one['cpu_ratio']:>5.2f}x {one['added_p50_ms']:>7.2f} ms "
            f"{one['added_p99_ms']:>7.2f} ms"
        )
    if args.json:
        from shared.artifact import write_text

        write_text(args.json, json.dumps(report, indent=2) + "\n")
    if args.plot:
        from services.bench.plots import gateway

        gateway(report, args.plot)
