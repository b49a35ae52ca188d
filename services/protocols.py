"""The papers' own protocols: what each says of an artifact, printed and written as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from services.commands.evaluate import Evaluate, hardware
from services.commands.train import is_prepared
from shared.artifact import Manifest, write_text
from shared.errors import BadInput

if TYPE_CHECKING:
    from shared.data.holdout import Holdout

VALID_USERS = 2_000
WINDOW = 25
"""Items of history that a collaborative model sees where no artifact says."""


def run(args: Evaluate) -> None:
    """Raises BadInput where the artifact is not of the protocol's method."""
    began = time.monotonic()
    if args.ranker is None and not (args.protocol == "collm" and args.baselines):
        raise BadInput(f"--protocol {args.protocol} measures a ranker: give --ranker.")
    if args.plots or args.lists:
        raise BadInput(f"--plots and --lists belong to --protocol llamarec: --protocol {args.protocol} has neither.")
    if args.baselines and (args.protocol == "llara" or (args.protocol == "collm" and args.ranker)):
        raise BadInput(f"--baselines {' '.join(args.baselines)}: llara has none, and collm's go without --ranker.")
    made = {"collm": _collm, "llara": _llara, "cllm4rec": _cllm4rec}[args.protocol](args)
    for name, row in made["rows"].items():
        print(f"{name:<22} {json.dumps(rounded(row))}")
    if "gain" in made:
        print(f"{'hybrid over the last':<22} {json.dumps(rounded(made['gain']))}")
    if args.json:
        made |= {"wall_seconds": round(time.monotonic() - began, 1), "hardware": hardware()}
        write_text(args.json, json.dumps(made, indent=2) + "\n")


def rounded(row: Any) -> Any:
    if isinstance(row, dict):
        return {key: rounded(value) for key, value in row.items()}
    if isinstance(row, list | tuple):
        return [rounded(value) for value in row]
    return round(row, 4) if isinstance(row, float) else row


def _collm(args: Evaluate) -> dict[str, Any]:
    from ranker.collm.evaluate import collaborative, report
    from ranker.collm.rank import CoLLMScorer
    from shared.data import collm

    if is_prepared(args.data):
        raise BadInput(f"{args.data} holds no labelled pairs: --protocol collm reads the paper's own folder.")
    if args.ranker is None:
        return collaborative(collm.read(args.data, WINDOW), args.baselines, WINDOW, args.seed)
    data = collm.read(args.data, _manifest(args).config["window"])
    loaded, scorer = _loaded(args, data.catalog, CoLLMScorer)
    shared = bool(loaded["config"]["tallrec"])
    return report(scorer, data, args.users, shared, args.seed) | {"ranker": loaded}


def _llara(args: Evaluate) -> dict[str, Any]:
    from ranker.llara.batches import nexts_of
    from ranker.llara.evaluate import report
    from ranker.llara.rank import LLaRAScorer
    from ranker.llara.recipes import LLaRAConfig
    from ranker.restore import config_of
    from shared.data import llara
    from shared.data.prepared import load

    prepared = load(args.data) if is_prepared(args.data) else None
    assert args.ranker is not None
    config = config_of(LLaRAConfig, _manifest(args), args.ranker)
    rows = {"window": config.history, "shortest": config.shortest}
    data = (
        nexts_of(prepared, config)
        if prepared and not args.split
        else llara.read(args.split or args.data, prepared, **rows)
    )
    loaded, scorer = _loaded(args, data.catalog, LLaRAScorer)
    return report(scorer, data, config, args.users) | {"ranker": loaded}


def _cllm4rec(args: Evaluate) -> dict[str, Any]:
    from ranker.cllm4rec.evaluate import report
    from ranker.cllm4rec.rank import RecLLMScorer
    from shared.data.holdout import holdout
    from shared.data.prepared import load

    for name in args.baselines:
        if name != "multi-vae":
            raise BadInput(f"baseline {name!r} is unknown to --protocol cllm4rec; there is multi-vae")
    data = load(args.data)
    config = _manifest(args).config
    loaded, scorer = _loaded(args, data.catalog, RecLLMScorer)
    parts = holdout(data, config["split"], config["seed"])
    made = report(scorer, parts, data.user_ids, args.users) | {"ranker": loaded, "data": {"digest": data.digest}}
    if args.baselines:
        made["rows"]["multi-vae"], made["multi-vae"] = _multi_vae(parts, data.user_ids, len(data.catalog), args)
    return made


def _multi_vae(parts: Holdout, user_ids: Sequence[str], items: int, args: Evaluate) -> tuple[dict[str, float], Any]:
    """Trained on the split that the ranker's manifest names, and chosen as RecLLM is."""
    from ranker.cllm4rec.evaluate import ask, best_items, measured
    from retriever.multivae import MultiVAEConfig, Scores, fit
    from shared.artifact import package_versions

    def told(scores: Scores, part: Literal["valid", "test"], users: int) -> dict[str, float]:
        asked = ask(parts, user_ids, part, users)
        best_UK = best_items(lambda hs: scores([h.items for h in hs]), items, asked.histories, asked.seen, None)
        return measured(best_UK, asked.truths)

    config = MultiVAEConfig(seed=args.seed)
    scores, how = fit(parts.train, items, lambda scores: sum(told(scores, "valid", VALID_USERS).values()), config)
    return told(scores, "test", args.users), how | {"packages": package_versions("cornac", "torch", "numpy")}


def _manifest(args: Evaluate) -> Manifest:
    from shared.artifact import open_artifact

    assert args.ranker is not None
    methods = {"collm": ("collm", "tallrec"), "llara": ("llara",), "cllm4rec": ("cllm4rec",)}
    return open_artifact(args.ranker, "ranker", methods=methods[args.protocol])


def _loaded(args: Evaluate, catalog: Any, kind: type[Any]) -> tuple[dict[str, Any], Any]:
    """What the report says of the artifact, and its scorer; the ranker has reproduced its golden score."""
    from ranker.opinion import BlendedRanker
    from ranker.registry import load

    assert args.ranker is not None
    loaded = load(args.ranker, catalog, args.backbone, args.device)
    loaded.self_test()
    assert isinstance(loaded.ranker, BlendedRanker)
    assert isinstance(loaded.ranker.scorer, kind)
    manifest = loaded.manifest
    told = {"name": manifest.name, "config": manifest.config, "seed": manifest.seed, "metrics": manifest.metrics}
    return told, loaded.ranker.scorer
