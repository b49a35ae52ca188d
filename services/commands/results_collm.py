"""The results page's section on CoLLM's pairs: AUC and UAUC beside the paper's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "collm-ml-1m"
PAPER: dict[str, tuple[float, float] | None] = {
    "mf": (0.6482, 0.6361),
    "lightgcn": (0.5959, 0.6499),
    "sasrec": (0.7078, 0.6884),
    "din": (0.7166, 0.6459),
    "svdpp": None,
    "tallrec": (0.7097, 0.6818),
    "collm-mf": (0.7295, 0.6875),
    "collm-lightgcn": (0.7100, 0.6967),
    "collm-sasrec": (0.7235, 0.6990),
    "collm-din": (0.7353, 0.6923),
    "collm-svdpp": None,
}
"""AUC and UAUC over all test pairs (CoLLM, table 2); None: it has no such row."""
NAMES = {
    "mf": "MF",
    "lightgcn": "LightGCN",
    "sasrec": "SASRec",
    "din": "DIN",
    "svdpp": "SVD++",
    "tallrec": "TALLRec",
}


def section(folder: Path) -> str:
    """Of the files of `tandem evaluate --protocol collm --json`."""
    made = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found: dict[str, Mapping[str, Any]] = {}
    for report in made:
        found |= _named(report)
    lines = [
        f"\n## {FOLDER}\n",
        f"{made[0]['pairs']:,} test pairs, CoLLM's own split; AUC / UAUC. Validation AUC chose the weight decay "
        "of the small recommenders. 95 %: users drawn anew a thousand times, each with all of their pairs.\n",
        "| model | all | 95 % | warm | cold | paper, all |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    if "item mean" in found:
        lines.append(f"| the item's mean label, whoever asks | {_cells(found['item mean'])} |  |")
    for name, published in PAPER.items():
        if published is None and name not in found:
            continue
        beside = f"{published[0]:.4f} / {published[1]:.4f}" if published else ""
        lines.append(f"| {_title(name)} | {_cells(found.get(name, {}))} | {beside} |")
    lines.append("")
    for report in made:
        for name, one in report.get("fitted", {}).items():
            lines.append(
                f"{_title(name)}: width {one['width']}, weight decay {one['weight_decay']:g}, validation AUC "
                f"{one['valid_auc']:.4f}, seed {report['seed']}.\n"
            )
        lines += _trained(report)
    return "\n".join(lines)


def _trained(report: Mapping[str, Any]) -> list[str]:
    """How a language model came to be, and on what."""
    if "ranker" not in report:
        return []
    config, metrics, hardware = report["ranker"]["config"], report["ranker"]["metrics"], report["hardware"]
    [name] = _named(report)
    steps = []
    for step, how in metrics["steps"].items():
        curve = ", ".join(f"{score:.4f} ({prompts:,})" for prompts, score, _ in how["curve"])
        rule = f" of up to {config['together']} pairs" if config["packed"] and config["together"] else ""
        steps.append(f"step {step}: validation AUC after so many prompts{rule} {curve}")
    return [
        f"{_title(name)}: {config['backbone']}, {config['layers'] or 'all'} layers, {'; '.join(steps)}; "
        f"{metrics['train_seconds']:,.0f} s on {hardware['cores']} cores ({hardware['cpu']}, "
        f"{hardware['gpu'] or 'no GPU'}).{_gain(report)}\n"
    ]


def _named(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    if "ranker" not in report:
        return dict(report["rows"])
    if "hybrid" not in report["rows"]:
        return {"tallrec": report["rows"]["text only"]}
    return {f"collm-{report['ranker']['config']['behaviour']}": report["rows"]["hybrid"]}


def _title(name: str) -> str:
    method, _, behaviour = name.partition("-")
    return f"CoLLM-{NAMES[behaviour]}" if behaviour else NAMES[method]


def _cells(row: Mapping[str, Any]) -> str:
    whole = row.get("all", {})
    drawn = " / ".join("{:.3f} to {:.3f}".format(*whole[name]) for name in ("auc_95", "uauc_95") if name in whole)
    return f"{_cell(row, 'all')} | {drawn} | {_cell(row, 'warm')} | {_cell(row, 'cold')}"


def _cell(row: Mapping[str, Any], part: str) -> str:
    return f"{row[part]['auc']:.4f} / {row[part]['uauc']:.4f}" if part in row else ""


def _gain(report: Mapping[str, Any]) -> str:
    """Of the hybrid prompt over the collaborative model whose vectors are in it."""
    if "gain" not in report:
        return ""
    each = (
        f"{name.upper()} {one['mean']:+.4f}, 95 % {one['interval'][0]:+.4f} to {one['interval'][1]:+.4f}"
        for name, one in report["gain"].items()
    )
    return f" Over its collaborative model: {'; '.join(each)}."
