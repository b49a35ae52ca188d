"""`tandem results`: docs/results.md out of the committed JSON of `tandem evaluate`, beside the papers' rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.commands import results_cllm4rec, results_collm, results_llara
from shared.errors import BadInput

METRICS = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "mrr@10")
PAPERS: dict[str, dict[str, tuple[float | None, ...]]] = {
    "ml-latest-small": {
        "NARM": (0.0544, 0.0801, None, 0.0359, 0.0441, None),
        "BERT4Rec": (0.0368, 0.0785, None, 0.0232, 0.0366, None),
        "SASRec": (0.0641, 0.0993, None, 0.0409, 0.0522, None),
        "LRURec": (0.0705, 0.1426, 0.2016, 0.0468, 0.0705, 0.0491),
        "LlamaRec, 7B": (0.0852, 0.1524, None, 0.0543, 0.0759, 0.0529),
    },
    "beauty": {
        "NARM": (0.0503, 0.0746, None, 0.0342, 0.0420, None),
        "BERT4Rec": (0.0457, 0.0686, None, 0.0298, 0.0372, None),
        "SASRec": (0.0582, 0.0844, None, 0.0397, 0.0481, None),
        "LRURec": (0.0614, 0.0916, 0.1278, 0.0435, 0.0533, 0.0417),
        "LlamaRec, 7B": (0.0648, 0.0971, None, 0.0450, 0.0554, 0.0428),
        "ULMRec, 7B": (0.0715, 0.0982, None, 0.0499, 0.0585, None),
    },
    "games": {
        "NARM": (0.0874, 0.1351, None, 0.0576, 0.0729, None),
        "BERT4Rec": (0.0788, 0.1214, None, 0.0512, 0.0649, None),
        "SASRec": (0.0930, 0.1446, None, 0.0617, 0.0783, None),
        "LRURec": (0.0966, 0.1463, 0.2126, 0.0640, 0.0800, 0.0598),
        "LlamaRec, 7B": (0.1061, 0.1599, None, 0.0714, 0.0887, 0.0671),
        "ULMRec, 7B": (0.1134, 0.1600, None, 0.0768, 0.0918, None),
    },
}
"""Published rows (LlamaRec, table 2; ULMRec), in METRICS' order, by the name of the dataset's folder. The paper's
"ML-100k" is ml-latest-small; its LRURec row there averages unequal batches, per user R@10 is .1344 and R@5 .0721."""
ORDER = ("ml-100k", *PAPERS, results_collm.FOLDER, *results_llara.PAPER)
RANKERS = {"llamarec": "LlamaRec", "collm": "CoLLM", "tallrec": "TALLRec", "llara": "LLaRA", "cllm4rec": "RecLLM"}


@dataclass(frozen=True, kw_only=True)
class Results:
    """Write the results page. `source` holds one folder per dataset with the JSON files of `tandem evaluate --json`."""

    source: Path = Path("docs/results")
    """DATASET/NAME.json."""
    out: Path = Path("docs/results.md")
    """The page; replaced."""


def run(args: Results) -> None:
    from shared.artifact import write_text

    if not any(args.source.glob("*/*.json")):
        raise BadInput(f"{args.source} holds no DATASET/NAME.json. Make them with `tandem evaluate --json`.")
    write_text(args.out, page(args.source))
    for folder in sorted(args.source.iterdir()):
        points = results_cllm4rec.sweep(results_cllm4rec.reports(folder))
        if len(points) > 1:
            from services.plots import draw_sweep

            draw_sweep(points, folder / "lambda_c.png")


def page(source: Path) -> str:
    """The same text for the same files."""
    folders = sorted(
        (folder for folder in source.iterdir() if any(folder.glob("*.json"))),
        key=lambda folder: (ORDER.index(folder.name) if folder.name in ORDER else len(ORDER), folder.name),
    )
    return HEAD + "".join(_section(folder) for folder in folders)


def _section(folder: Path) -> str:
    """By the protocol of what lies there."""
    protocol = json.loads(next(iter(sorted(folder.glob("*.json")))).read_text())["protocol"]
    sections = {
        "collm": results_collm.section,
        "llara": results_llara.section,
        "cllm4rec": results_cllm4rec.section,
    }
    return sections.get(protocol, _dataset)(folder)


HEAD = """# Results

Made by `tandem results` from the JSON files in [results/](results); every one of them was written by
`tandem evaluate --json` and holds config, seed, data digest, hardware and wall time. Not edited by hand.

Full-catalogue ranking, leave-one-out, test input = training and validation items, per-user means. Unless said otherwise
the items that the retriever sees are excluded, as in the papers; the rows with the whole history excluded are what
serving does. A user whose item the retriever missed counts 0 for every ranker. Intervals are 95 %, paired by user.
"""


def _dataset(folder: Path) -> str:
    made = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    first = next(iter(made.values()))
    counts = first["data"]
    text = [
        f"\n## {folder.name}\n",
        f"{counts['users_after']:,} users, {counts['items_after']:,} items, {counts['interactions_after']:,} "
        f"interactions; {first['users']:,} test users.\n",
        _row("system", [*METRICS, "recall@10, 95 %", "ndcg@10, 95 %"]),
        _row("---", ["---"] * (len(METRICS) + 2)),
    ]
    for name, values in PAPERS.get(folder.name, {}).items():
        text.append(_row(f"{name} (paper)", [*(f"{v:.4f}" if v is not None else "" for v in values), "", ""]))
    for name in ("popularity", *sorted({n for m in made.values() for n in m["rows"]} - KNOWN)):
        text += [_numbers(name, name, m) for m in made.values() if name in m["rows"]][:1]
    # Those that were trained for their own sake first: a ranker's may be another machine's training of the same seed.
    by_purpose = sorted(made.values(), key=lambda report: "ranker" in report)
    retrievers: dict[str, Any] = {}
    for report in by_purpose:
        retrievers.setdefault(report["retriever"]["name"], report)
    alone = [report for report in retrievers.values() if _members(report) == 1]
    seeds: dict[int, Mapping[str, float]] = {}
    for report in alone:
        seed = report["retriever"]["seed"]
        again = f", again on {report['hardware']['cpu']}" if seed in seeds else ""
        text.append(_numbers(f"**LRURec**, seed {seed}{again}", "lrurec", report))
        seeds.setdefault(seed, report["rows"]["lrurec"])
    if len(seeds) > 1:
        mean = {metric: sum(row[metric] for row in seeds.values()) / len(seeds) for metric in METRICS}
        cells = [f"{mean[metric]:.4f}" for metric in METRICS]
        text.append(_row(f"**LRURec**, mean of {len(seeds)} seeds", [*cells, "", ""]))
    for report in retrievers.values():
        if (members := _members(report)) > 1:
            text.append(_numbers(f"**LRURec, ensemble of {members}**", "lrurec", report))
    for report in made.values():
        text += _ranker_rows(report)
    text.append("")
    for report in retrievers.values():
        text.append(_notes(report))
    told = {name: one for report in made.values() for name, one in report.get("lists", {}).items() if one["made"]}
    text += [_listed(name, one["made"]) for name, one in told.items()]
    for report in made.values():
        text += _opinion(report) if "ranker" in report else []
    return "\n".join(text)


KNOWN = {"popularity", "lrurec", *(f"{one} {kind}" for one in (*RANKERS, "titles") for kind in ("alone", "blend"))}


def _members(report: Mapping[str, Any]) -> int:
    return int(report["retriever"]["config"].get("members", 1))


def _ranker_rows(report: Mapping[str, Any]) -> Iterable[str]:
    if "ranker" not in report:
        return []
    config, method = report["ranker"]["config"], _method(report)
    name = f"{RANKERS[method]}, {config['backbone']}, {config['layers'] or 'all'} layers"
    rows = [
        _numbers(f"{name}, alone", f"{method} alone", report),
        _numbers(f"**{name}, blended** (w {report['ranker']['blend']:.2f})", f"{method} blend", report),
    ]
    if "titles blend" in report["rows"]:
        rows.append(_numbers("its teacher, likeness of titles, blended", "titles blend", report))
    return rows


def _method(report: Mapping[str, Any]) -> str:
    return str(report["ranker"]["name"].partition("@")[0])


def _notes(report: Mapping[str, Any]) -> str:
    hardware = report["hardware"]
    trained = report["retriever"]["metrics"]
    return (
        f"`{report['retriever']['name']}`: {trained['steps']:,} steps, best at {trained['best_step']:,}, "
        f"{trained['train_seconds']:,.0f} s of training; evaluated in {report['wall_seconds']:.0f} s on "
        f"{hardware['cores']} cores ({hardware['cpu']}{', ' + hardware['gpu'] if hardware['gpu'] else ', no GPU'}). "
        f"Whole history excluded: Recall@10 {report['rows_history_excluded']['lrurec']['recall@10']:.4f}, "
        f"NDCG@10 {report['rows_history_excluded']['lrurec']['ndcg@10']:.4f}.\n"
    )


def _listed(name: str, made: Mapping[str, Any]) -> str:
    packages, loss = made["packages"], made.get("loss", "softmax")
    sampled = "" if loss == "softmax" else f", {loss} with {made['negatives']} negatives"
    window = made.get("session") or made["window"]
    return (
        f"`{name}`: RecTools {packages['rectools']}, width {made['width']}, window {window}, dropout {made['dropout']}"
        f"{sampled}, seed {made['seed']}, best at epoch {made['best_epoch']}, {made['train_seconds']:,.0f} s "
        "of training on a CPU.\n"
    )


def _opinion(report: Mapping[str, Any]) -> list[str]:
    ranker, trained, method = report["ranker"], report["ranker"]["metrics"], _method(report)
    told = f"{trained['prompts']:,} prompts seen, " if "prompts" in trained else ""
    lines = [
        f"`{ranker['name']}`: {told}{trained['train_seconds']:,.0f} s of training; "
        f"label mass {ranker['label_mass']:.3f}, entropy {ranker['entropy']:.2f} nats. "
        "Against LRURec on the same users:\n",
        _row("", ["NDCG@10", "95 %", "p", "Recall@10", "95 %", "p"]),
        _row("---", ["---"] * 6),
    ]
    for name in (f"{method} alone", f"{method} blend", "titles alone", "titles blend"):
        if name not in report["against_retriever"]:
            continue
        cells = []
        for metric in ("ndcg@10", "recall@10"):
            d = report["against_retriever"][name][metric]
            cells += [f"{d['mean']:+.4f}", f"{d['low']:+.4f} to {d['high']:+.4f}", f"{d['p_value']:.3f}"]
        lines.append(_row(name, cells))
    lines.append(
        f"\nOn the {report['users_where_retrieved']:,} users whose item was among the 20, NDCG@10: "
        + ", ".join(f"{name} {row['ndcg@10']:.4f}" for name, row in report["rows_where_retrieved"].items())
        + "."
        + _curve(trained)
        + "\n"
    )
    if "order_sensitivity" in report:
        lines += [
            _row("candidates listed", ["Kendall tau", "NDCG@10 alone", "first listed on top"]),
            _row("---", ["---"] * 3),
        ]
        for o in report["order_sensitivity"]:
            cells = [f"{o['kendall_tau']:.3f}", f"{o['ndcg']:.4f}", f"{o['first_label_share']:.3f}"]
            lines.append(_row(f"{o['name']} order", cells))
        lines.append("")
    return lines


def _curve(trained: Mapping[str, Any]) -> str:
    """What was validated while it trained, against prompts."""
    stages = trained.get("steps", trained.get("stages"))
    if isinstance(stages, Mapping):
        curves = {f"stage {name}": stage["curve"] for name, stage in stages.items()}
    elif "valid_ndcg@10" in trained:
        curves = {"NDCG@10 of the language model alone": trained["curve"]}
    else:
        curves = {"HitRatio@1": trained["curve"]}
    told = (
        f" Validation against prompts seen, {name}: "
        + ", ".join(f"{score:.4f} ({prompts:,})" for prompts, score, _ in curve)
        + "."
        for name, curve in curves.items()
    )
    return "".join(told)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def _numbers(name: str, system: str, report: Mapping[str, Any]) -> str:
    row, within = report["rows"][system], report["intervals"][system]
    spans = [f"{within[metric][0]:.4f} to {within[metric][1]:.4f}" for metric in ("recall@10", "ndcg@10")]
    return _row(name, [*(f"{row[metric]:.4f}" for metric in METRICS), *spans])
