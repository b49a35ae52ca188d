"""The results page's sections on CLLM4Rec's protocol: its ablations, and the strength of the mutual regularisation."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HELD_OUT = {"random": "a tenth of each user's items held out", "last": "each user's last item held out"}
METRICS = ("recall@20", "recall@40", "ndcg@100")
PAPER = {
    "Multi-VAE": (0.1295, 0.1720, 0.0835),
    "BERT4Rec": (0.1126, 0.1677, 0.0781),
    "LLM-CF": (0.1319, None, None),
    "LLM-FixOrd": (0.1524, None, None),
    "LLM-PreRec": (0.1547, None, None),
    "CLLM4Rec": (0.1656, 0.2323, 0.1118),
}
"""On AM-Beauty, GPT-2 (CLLM4Rec, tables 2 and 3): not our users and items: only the order compares."""


def section(folder: Path) -> str:
    """Of the files of `tandem evaluate --protocol cllm4rec --json`."""
    made = sorted(reports(folder), key=lambda report: _place(report["ranker"]["config"]))
    held_out = HELD_OUT[made[0]["ranker"]["config"]["split"]]
    lines = [
        f"\n## {folder.name}\n",
        f"{made[0]['users']:,} test users; {held_out}, ranked among all others.\n",
        "| model | Recall@20 | Recall@40 | NDCG@100 | users' items, texts, masked | training |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, values in PAPER.items():
        cells = " | ".join("" if value is None else f"{value:.4f}" for value in values)
        lines.append(f"| {name} (paper, AM-Beauty) | {cells} |  |  |")
    lines.append(f"| popularity | {_cells(made[0]['rows']['popularity'])} |  |  |")
    fitted: dict[str, str] = {}  # several rankers may have been measured beside the same one
    for report in made:
        if "multi-vae" in report:
            how = report["multi-vae"]
            name = f"Multi-VAE, cornac {how['packages']['cornac']}, beta {how['beta']:g}, {how['epochs']} epochs"
            fitted.setdefault(name, f"| {name} | {_cells(report['rows']['multi-vae'])} |  |  |")
    lines += fitted.values()
    for report in made:
        config, seen = report["ranker"]["config"], _documents(report["ranker"])
        lines.append(
            f"| **{_name(config)}**, {config['backbone']}, {config['layers'] or 'all'} layers | "
            f"{_cells(report['rows']['recllm'])} | {', '.join(f'{count:,}' for count in seen)} | "
            f"{report['ranker']['metrics']['train_seconds']:,.0f} s, {_hardware(report['hardware'])} |"
        )
    lines.append("")
    if len(sweep(made)) > 1:
        lines.append(f"![the strength of the regularisation](results/{folder.name}/lambda_c.png)\n")
    return "\n".join(lines)


def _hardware(used: Mapping[str, Any]) -> str:
    return f"{used['cores']} cores ({used['cpu']}, {used['gpu'] or 'no GPU'})"


def reports(folder: Path) -> list[dict[str, Any]]:
    made = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [report for report in made if report["protocol"] == "cllm4rec"]


def sweep(made: Sequence[Mapping[str, Any]]) -> dict[float, Mapping[str, float]]:
    """lambda_c -> the metrics, rising: of the runs that differ in nothing else, where they are the most."""
    alike: dict[str, dict[float, Mapping[str, float]]] = {}
    for report in made:
        config = dict(report["ranker"]["config"])
        strength = config.pop("lambda_c")
        config.pop("pretrained", None)
        alike.setdefault(json.dumps(config, sort_keys=True), {})[strength] = report["rows"]["recllm"]
    points = max(alike.values(), key=len, default={})
    return dict(sorted(points.items()))


def _name(config: Mapping[str, Any]) -> str:
    variant, strength = _variant(config), config["lambda_c"]
    return variant if strength == 1 or not config["content"] else f"{variant}, lambda_c {strength:g}"


def _place(config: Mapping[str, Any]) -> tuple[int, str]:
    """Runs of one depth together, the deepest last."""
    return config["layers"] or sys.maxsize, _name(config)


def _documents(ranker: Mapping[str, Any]) -> tuple[int, int, int]:
    """Of L-steps, of C-steps and of fine-tuning. The alternation counts either step as one of L's documents."""
    config = ranker["config"]
    seen = {name: stage["curve"][-1][0] for name, stage in ranker["metrics"]["stages"].items()}
    turns, masked = seen.get("pretrain", 0), seen.get("recllm", 0)
    if not config["content"]:
        return turns, 0, masked
    share = (config.get("content_batch") or config["batch"]) / config["batch"]
    return turns // 2, seen.get("content", 0) + int(turns // 2 * share), masked


def _variant(config: Mapping[str, Any]) -> str:
    without = [
        name
        for field, name in (("content", "LLM-CF"), ("reorder", "LLM-FixOrd"), ("finetune", "LLM-PreRec"))
        if not config[field]
    ]
    return " and ".join(without) or "CLLM4Rec"


def _cells(row: Mapping[str, float]) -> str:
    return " | ".join(f"{row[metric]:.4f}" for metric in METRICS)
