"""The pictures of benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIZE = (9.0, 3.8)
DPI = 130
STAGES = ("cache", "retrieval", "queue", "rank", "else")


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


def retrieve(report: dict[str, Any], path: Path) -> None:
    """Milliseconds of one search by size, and of encoding by what is kept."""
    figure, (sizes, encoding) = plt.subplots(1, 2, figsize=SIZE, layout="constrained")
    rows = report["sizes"]
    for way in ("raw", "raw, selector", "ours", "ours, 32 at once", "service"):
        share = 32 if "at once" in way else 1
        found = [(row["items"], row["ms"][way]["p50"] / share) for row in rows if way in row["ms"]]
        if found:
            sizes.plot(*zip(*found, strict=True), marker="o", label=way + (", each" if share > 1 else ""))
    for row in rows:
        sizes.annotate(row["kind"], (row["items"], row["ms"]["ours"]["p50"]), xytext=(0, 8), textcoords="offset points")
    sizes.set_xscale("log")
    sizes.set_yscale("log")
    sizes.set_xlabel("items")
    sizes.set_ylabel("ms a user, median")
    sizes.legend(frameon=False, fontsize=8)
    ways = list(dict.fromkeys(way for row in report["encode"] for way in row["ms"]))
    for way in ways:
        found = [(row["items"], row["ms"][way]) for row in report["encode"] if way in row["ms"]]
        encoding.plot(*zip(*found, strict=True), marker="o", label=way)
    encoding.set_yscale("log")
    encoding.set_xlabel("items in the history")
    encoding.set_ylabel("ms to encode it, median")
    encoding.legend(frameon=False, fontsize=8)
    _save(figure, path)


def e2e(report: dict[str, Any], path: Path) -> None:
    """Latencies by how the answer is made and what goes on beside, and where the time goes."""
    figure, (latency, stages) = plt.subplots(1, 2, figsize=SIZE, layout="constrained")
    rows = report["rows"]
    names = [f"{row['way']}, {row['beside']}" for row in rows]
    for key, marker in (("p50_ms", "o"), ("p95_ms", "d"), ("p99_ms", "|")):
        latency.plot([row["open"][key] for row in rows], names, marker, markersize=8, label=key[:3])
    latency.set_xscale("log")
    latency.set_xlabel("latency, open loop, ms")
    latency.legend(frameon=False, fontsize=8)
    alone = [row for row in rows if row["beside"] == "alone"]
    left = [0.0] * len(alone)
    for stage in STAGES:
        shares = [row["stages"].get(stage, 0.0) for row in alone]
        stages.barh([row["way"] for row in alone], shares, left=left, label=stage)
        left = [one + more for one, more in zip(left, shares, strict=True)]
    stages.set_xlabel("share of the time to an answer")
    stages.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for axes in (latency, stages):
        axes.invert_yaxis()
    _save(figure, path)


def rank(report: dict[str, Any], path: Path) -> None:
    """Verbalizer and generation by title length and by candidates (LlamaRec's figure of inference time)."""
    figure, pair = plt.subplots(1, 2, figsize=SIZE, layout="constrained", sharey=True)
    for axes, key, by, label in zip(
        pair,
        ("titles", "candidates"),
        ("title", "candidates"),
        ("tokens of a title", "candidates"),
        strict=True,
    ):
        rows = report[key]
        for way, marker in (("verbalizer", "o"), ("generation", "s")):
            axes.plot([row[by] for row in rows], [row["ms"][way]["p50"] for row in rows], marker=marker, label=way)
        axes.set_xlabel(label)
        axes.set_ylim(bottom=0)
    pair[0].set_ylabel("ms a request, median")
    pair[0].legend(frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _color(name: str) -> str:
    return "silver" if name.startswith("bare") else "tab:blue"
