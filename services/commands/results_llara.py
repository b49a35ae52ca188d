"""The results page's sections on LLaRA's slates: HitRatio@1 and ValidRatio beside the paper's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAPER: dict[str, dict[str, tuple[float, float | None]]] = {
    "llara-movielens": {
        "GRU4Rec": (0.3750, None),
        "Caser": (0.3861, None),
        "SASRec": (0.3444, None),
        "TALLRec, 7B": (0.3895, 0.93),
        "LLaRA, GRU4Rec, 7B": (0.4421, 0.97),
        "LLaRA, Caser, 7B": (0.4737, 0.97),
        "LLaRA, SASRec, 7B": (0.4421, 0.97),
    },
    "llara-lastfm": {
        "GRU4Rec": (0.2616, None),
        "Caser": (0.2233, None),
        "SASRec": (0.2233, None),
        "TALLRec, 7B": (0.4180, 0.98),
        "LLaRA, GRU4Rec, 7B": (0.4344, 1.0),
        "LLaRA, Caser, 7B": (0.4344, 1.0),
        "LLaRA, SASRec, 7B": (0.4508, 1.0),
    },
}
"""HitRatio@1 and ValidRatio (LLaRA, table 2)."""
NAMES = {"gru4rec": "GRU4Rec", "caser": "Caser", "sasrec": "SASRec", "lrurec": "LRURec"}


def section(folder: Path) -> str:
    """Of the files of `tandem evaluate --protocol llara --json`."""
    made = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    lines = [
        f"\n## {folder.name}\n",
        f"{made[0]['slates']:,} test slates of 20 candidates, fixed by the seed. Wilson's 95 % intervals.\n",
        "| model | HitRatio@1 | 95 % | ValidRatio |",
        "| --- | --- | --- | --- |",
    ]
    for name, (hit, valid) in PAPER.get(folder.name, {}).items():
        lines.append(f"| {name} (paper) | {hit:.4f} |  | {'' if valid is None else f'{valid:.2f}'} |")
    lines += _sequential(made)
    for report in made:
        config = report["ranker"]["config"]
        name = f"LLaRA, {NAMES[config['behaviour']]}, {config['backbone']}, {_form(report['ranker'])}"
        lines += [_row(f"**{name}**, {way}", row) for way, row in _ways(report)]
    lines.append("")
    for report in made:
        config, trained, hardware = report["ranker"]["config"], report["ranker"]["metrics"], report["hardware"]
        curve = ", ".join(f"{score:.4f} ({prompts:,})" for prompts, score, _ in trained["curve"])
        lines.append(
            f"`{report['ranker']['name']}`, {_form(report['ranker'])}: {config['layers'] or 'all'} layers; "
            f"HitRatio@1 on validation against prompts seen {curve}; {trained['train_seconds']:,.0f} s of training on "
            f"{hardware['cores']} cores ({hardware['cpu']}, {hardware['gpu'] or 'no GPU'}).{_note(report)}\n"
        )
    return "\n".join(lines)


def _note(report: Mapping[str, Any]) -> str:
    """What a person wrote into the file of a run that today's command does not give again."""
    return f" {report['note']}" if "note" in report else ""


def _sequential(made: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each sequential model under the runs; of several their weight decay and machine tell."""
    found: dict[tuple[str, float, float], tuple[str, Mapping[str, Any]]] = {}
    for report in made:
        name, trained = NAMES[report["ranker"]["config"]["behaviour"]], report["ranker"]["metrics"]["behaviour"]
        decay, row = trained["weight_decay"], report["rows"]["sequential model"]
        which = f", weight decay {decay:g}, {report['hardware']['cpu']}"
        found.setdefault((name, decay, row["hit_ratio@1"]["value"]), (which, row))
    names = [name for name, *_ in found]
    return [_row(name + which * (names.count(name) > 1), row) for (name, *_), (which, row) in found.items()]


def _ways(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    rows, ways = report["rows"], [("generated", "generated"), ("as served", "as served")]
    if "blended" in rows:
        behaviour = NAMES[report["ranker"]["config"]["behaviour"]]
        ways.append(("blended", f"blended with {behaviour} (w {report['blend']['weight']:.2f})"))
    return [(told, rows[way]) for way, told in ways if way in rows]


def _form(ranker: Mapping[str, Any]) -> str:
    config, prompts = ranker["config"], ranker["metrics"]["curve"][-1][0]
    bound = config.get("binding_prompts")
    after = f" after {bound:,} of binding" if bound else ""
    return f"{config['curriculum']}{' with the user token' if config.get('user') else ''}, {prompts:,} prompts{after}"


def _row(name: str, row: Mapping[str, Any]) -> str:
    hit, valid = row["hit_ratio@1"], row["valid_ratio"]
    return f"| {name} | {hit['value']:.4f} | {hit['low']:.4f} to {hit['high']:.4f} | {valid['value']:.2f} |"
