"""The pictures of benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIZE = (9.0, 3.8)
DPI = 130


def gateway(report: dict[str, Any], path: Path) -> None:
    """Throughput, and the median and p99 latency, of each variant."""
    figure, (throughput, latency) = plt.subplots(1, 2, figsize=SIZE, layout="constrained")
    names = list(report["variants"])
    figures = [report["variants"][name] for name in names]
    places = range(len(names))
    throughput.barh(places, [one["per_second"] for one in figures], color=[_color(name) for name in names])
    throughput.set_xlabel("answers a second, closed loop")
    for place, one in zip(places, figures, strict=True):
        throughput.annotate(f" {one['cpu_us']:.0f} us CPU", (one["per_second"], place), va="center", fontsize=8)
    throughput.margins(x=0.25)
    for key, marker in (("p50_ms", "o"), ("p99_ms", "|")):
        latency.plot([one[key] for one in figures], places, marker, markersize=10, label=key[:3])
    latency.set_xscale("log")
    latency.set_xlabel("latency, open loop at half load, ms")
    latency.legend(frameon=False)
    for axes in (throughput, latency):
        axes.set_yticks(places, names)
        axes.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def rankers(report: dict[str, Any], path: Path) -> None:
    """Milliseconds a request, first and again, with what went through the language model; and peak memory."""
    figure, (times, memory) = plt.subplots(1, 2, figsize=SIZE, layout="constrained")
    names = list(report["rankers"])
    for shift, kind in ((-0.2, "first"), (0.2, "again")):
        figures = [report["rankers"][name][kind] for name in names]
        places = [place + shift for place in range(len(names))]
        times.barh(places, [one["p50_ms"] for one in figures], height=0.38, label=kind)
        for place, one in zip(places, figures, strict=True):
            told = f" {one['passes']:.0f} x {one['tokens'] / max(1, one['passes']):.0f} tokens"
            times.annotate(told if one["passes"] else " no pass", (one["p50_ms"], place), va="center", fontsize=8)
    times.set_xlabel("ms a request of 20 candidates, median")
    times.margins(x=0.35)
    times.legend(frameon=False)
    together = report["together"]["peak_mib"]
    memory.barh([*names, "all in one"], [*(report["rankers"][n]["peak_mib"] for n in names), together], color="silver")
    memory.set_xlabel("peak memory of the process, MiB")
    times.set_yticks(range(len(names)), names)
    for axes in (times, memory):
        axes.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _color(name: str) -> str:
    return "silver" if name.startswith("bare") else "tab:blue"
