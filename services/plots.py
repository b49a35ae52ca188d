"""The plots of an evaluation: metric by band, rank movement, reliability of the label probabilities; and of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SIZE = (7.0, 4.0)
DPI = 130


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """PNG files in `folder`; those of a ranker only where the report has one."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_bands(report["bands"][kind], kind, folder) for kind in ("activity", "popularity")]
    if "ranker" in report:
        drawn += [_movement(report["ranker"], folder), _reliability(report["ranker"], folder)]
    return drawn


def _bands(rows: list[dict[str, Any]], kind: str, folder: Path) -> Path:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    systems = list(rows[0]["systems"]) if rows else []
    for s, system in enumerate(systems):
        places = [place + (s - (len(systems) - 1) / 2) * 0.8 / len(systems) for place in range(len(rows))]
        heights = [row["systems"][system]["ndcg@10"] for row in rows]
        axes.bar(places, heights, 0.8 / len(systems), label=system)
    axes.set_xticks(range(len(rows)), [f"{row['band']}\n{row['users']:,} users" for row in rows])
    axes.set_ylabel("NDCG@10")
    axes.set_title("by items in the history" if kind == "activity" else "by popularity of the held-out item")
    axes.legend(frameon=False)
    return _save(figure, folder / f"bands_{kind}.png")


def _movement(ranker: dict[str, Any], folder: Path) -> Path:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    moved = {int(places): count for places, count in ranker["movement"].items()}
    axes.bar(list(moved), list(moved.values()), 0.9)
    axes.set_xlabel("places gained over the retriever's order")
    axes.set_ylabel("candidates")
    axes.set_title(f"{ranker['name']}, blend weight {ranker['blend']:.2f}")
    return _save(figure, folder / "movement.png")


def _reliability(ranker: dict[str, Any], folder: Path) -> Path:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    bins = ranker["reliability"]
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.plot([b["said"] for b in bins], [b["was"] for b in bins], marker="o")
    for b in bins:
        axes.annotate(
            f"{b['labels']:,}", (b["said"], b["was"]), textcoords="offset points", xytext=(4, -11), fontsize=8
        )
    axes.set_xlabel("probability that the model gave the label")
    axes.set_ylabel("share that was right")
    axes.set_title(f"{ranker['name']}: reliability (labels per bin)")
    return _save(figure, folder / "reliability.png")


def draw_sweep(points: Mapping[float, Mapping[str, float]], path: Path) -> Path:
    """CLLM4Rec's metrics by lambda_c, as in its paper's figure."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    for metric in next(iter(points.values())):
        axes.plot(list(points), [row[metric] for row in points.values()], marker="o", label=metric)
    least = min((strength for strength in points if strength > 0), default=1.0)
    axes.set_xscale("symlog", linthresh=least)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("lambda_c, the strength of the mutual regularisation")
    axes.legend(frameon=False)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
    return path
