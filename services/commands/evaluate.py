"""`tandem evaluate`: held-out items ranked against the whole catalogue, every system on the same users."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from services.commands.tables import metrics_table

if TYPE_CHECKING:
    import numpy as np

    from shared.data.prepared import Prepared

Exclusion = Literal["window", "history"]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score a retriever, and a ranker over its candidates, on each user's held-out last item.

    Users whose item the retriever missed count 0 for every ranker. Intervals are 95 %, paired by user.
    """

    data: Path
    """The prepared data folder."""
    retriever: Path
    """The retriever's artifact."""
    ranker: Path | None = None
    """A ranker's artifact; rows for the language model alone and for the blend are added."""
    backbone: str | None = None
    """Another place of the ranker's language model: a name or a folder."""
    device: str = "auto"
    """auto, cpu or cuda: where the language model runs."""
    exclude: Exclusion = "window"
    """What may not be recommended: the items that the retriever sees (the papers), or the whole history."""
    users: int = 0
    """Evaluate the language model on this many users at most, evenly spaced; 0: all."""
    seed: int = 0
    """Of the bootstrap."""
    json: Path | None = None
    """Also write everything to this file: metrics, config, seed, data digest, hardware, wall time."""


def run(args: Evaluate) -> None:
    from shared.data.prepared import load

    began = time.monotonic()
    data = load(args.data)
    report = evaluate(data, args)
    shown = f"test, {report['users']:,} users, {args.exclude} excluded"
    metrics_table(report["rows"], shown)
    for name, difference in report["against_retriever"].items():
        print(f"\n{name} against lrurec, paired over {report['users']:,} users:")
        for metric, d in difference.items():
            print(f"  {metric:<10} {d['mean']:+.4f}  95 % [{d['low']:+.4f}, {d['high']:+.4f}]  p {d['p_value']:.4f}")
    if "blend" in report:
        print(f"\nblend weight {report['blend']:.2f}, label mass {report['label_mass']:.3f}")
    if args.json:
        from shared.artifact import write_text

        report |= {"wall_seconds": round(time.monotonic() - began, 1), "hardware": hardware()}
        write_text(args.json, json.dumps(report, indent=2) + "\n")


def retrieval_rows(data: Prepared, folder: Path, exclude: Exclusion) -> dict[str, dict[str, float]]:
    """popularity and lrurec on the test items."""
    from shared.metrics import table

    return {name: table(ranks_U) for name, ranks_U in _retrieval(data, folder, exclude, 0).ranks.items()}


@dataclass(frozen=True)
class _Retrieval:
    cases: list[Any]
    ranks: dict[str, np.ndarray]
    items_UC: np.ndarray
    scores_UC: np.ndarray
    name: str


def _retrieval(data: Prepared, folder: Path, exclude: Exclusion, users: int) -> _Retrieval:
    from retriever.evaluate import ranks, retrieved
    from retriever.retrieve import load
    from shared.data.split import cases
    from shared.wire import RERANKED

    loaded = load(folder, data.catalog)
    asked = list(cases(data, "test"))
    asked = asked[:: max(1, len(asked) // users)] if users else asked
    window = loaded.retriever.window
    popular_UC, _ = retrieved(loaded.popularity, asked, RERANKED, exclude, window, "popularity")  # type: ignore[arg-type]
    items_UC, scores_UC = retrieved(loaded.retriever, asked, RERANKED, exclude, window, "lrurec")
    found = {"popularity": ranks(popular_UC, asked), "lrurec": ranks(items_UC, asked)}
    return _Retrieval(asked, found, items_UC, scores_UC, loaded.manifest.name)


def evaluate(data: Prepared, args: Evaluate) -> dict[str, Any]:
    """Everything that the command prints and writes, but for wall time and hardware."""
    from shared.metrics import ndcg, paired, recall, table

    stage = _retrieval(data, args.retriever, args.exclude, args.users)
    ranks = dict(stage.ranks)
    report: dict[str, Any] = {
        "data": data.manifest.method,
        "data_digest": data.digest,
        "catalog": data.catalog.fingerprint(),
        "users": len(stage.cases),
        "exclude": args.exclude,
        "seed": args.seed,
        "retriever": stage.name,
    }
    if args.ranker:
        report |= _ranked(data, args, stage, ranks)
    report["rows"] = {name: table(ranks_U) for name, ranks_U in ranks.items()}
    found_U = ranks["lrurec"] > 0
    report["found_users"] = int(found_U.sum())
    report["rows_where_found"] = {name: table(r[found_U]) for name, r in ranks.items() if name != "popularity"}
    measures = {"ndcg@10": (ndcg, 10), "recall@10": (recall, 10), "recall@5": (recall, 5)}
    report["against_retriever"] = {
        name: {m: asdict(paired(f(r, k), f(ranks["lrurec"], k), args.seed)) for m, (f, k) in measures.items()}
        for name, r in ranks.items()
        if name not in ("popularity", "lrurec")
    }
    return report


def _ranked(data: Prepared, args: Evaluate, stage: _Retrieval, ranks: dict[str, np.ndarray]) -> dict[str, Any]:
    """Adds the language model's rows to `ranks`."""
    import numpy as np

    from ranker.blend import blend, truth_ranks
    from ranker.evaluate import questions, score
    from ranker.llamarec.rank import LlamaRecRanker
    from ranker.registry import load

    assert args.ranker is not None
    loaded = load(args.ranker, data.catalog, args.backbone, args.device)
    loaded.self_test()
    ranker = loaded.ranker
    assert isinstance(ranker, LlamaRecRanker)
    asked = questions(stage.cases, stage.items_UC[:, : ranker.max_candidates], stage.scores_UC)
    logits_UC, mass_U = score(ranker.engine, ranker.builder, asked, "llamarec")
    ranks["llamarec alone"] = truth_ranks(logits_UC, asked.truth_U)
    ranks["llamarec blend"] = truth_ranks(blend(asked.scores_UC, logits_UC, ranker.weight), asked.truth_U)
    return {
        "ranker": loaded.manifest.name,
        "config": loaded.manifest.config,
        "prompts_seen": loaded.manifest.metrics["prompts"],
        "blend": ranker.weight,
        "label_mass": float(np.nanmean(mass_U)),
    }


def hardware() -> dict[str, Any]:
    import os

    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "gpu": gpu}
