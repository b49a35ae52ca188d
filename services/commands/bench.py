"""`tandem bench gateway`: what the gateway costs beside a bare route, measured side by side."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


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


def run(args: Gateway) -> None:
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
