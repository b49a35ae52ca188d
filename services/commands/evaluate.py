"""`tandem evaluate`: held-out items ranked against the whole catalogue, every system on the same users."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from services.commands.tables import metrics_table
from shared.config import at_least
from shared.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

    from shared.data.prepared import Prepared

OURS = ("popularity", "lrurec", "als", "item-knn")
Lists = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=FILE")]


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score a retriever, and a ranker over its candidates, on each user's held-out last item.

    Users whose item the retriever missed count 0 for every ranker. Intervals are 95 %, paired by user.
    """

    data: Path
    """The prepared data folder."""
    retriever: Path | None = None
    """The retriever's artifact. Only the protocol llamarec needs it."""
    ranker: Path | None = None
    """A ranker's artifact; rows for the language model alone and for the blend are added."""
    protocol: Literal["llamarec", "collm", "llara", "cllm4rec"] = "llamarec"
    """llamarec: leave-one-out over the whole catalogue, the items that the retriever sees excluded (the papers); rows
    with the whole history excluded (as served) are printed below. collm: AUC and UAUC of labelled pairs, warm and
    cold. llara: HitRatio@1 and ValidRatio on fixed slates. cllm4rec: several held-out items over the whole catalogue.
    collm and llara read --data as `tandem train ranker` does."""
    split: Path | None = None
    """llara: the folder of the paper's MovieLens rows, where --data is all of ML-100K, prepared."""
    baselines: tuple[str, ...] = ()
    """als, item-knn: rows on the same split, from the library implicit (extra `baselines`). With --protocol collm and
    no --ranker mf, svdpp, lightgcn, sasrec, din: the collaborative models alone, trained on the spot. With --protocol
    cllm4rec multi-vae, from the library cornac, trained on the ranker's own split."""
    lists: Lists = ()
    """A row for another system: a file of its lists (CSV, TSV, JSON lines or Parquet; user_id and item_id, each user's
    rows best first, made without the last item); repeat it."""
    backbone: str | None = None
    """Another place of the ranker's language model: a name or a folder."""
    device: str = "auto"
    """auto, cpu or cuda: where the language model runs."""
    users: int = 0
    """Evaluate on this many users at most, evenly spaced; 0: all."""
    order_users: int = 200
    """Users on whom the sensitivity to the order of candidates is measured, 7 prompts each; 0: not measured."""
    seed: int = 0
    """Of the bootstrap and the random orders."""
    json: Path | None = None
    """Also write everything to this file: metrics, config, seed, data digest, hardware, wall time."""
    plots: Path | None = None
    """Also draw the metric by band, rank movement and reliability into this folder (PNG)."""


def run(args: Evaluate) -> None:
    from shared.artifact import require_writable, write_text

    at_least(0, args, "users", "order_users", "seed")
    for place in (args.json, args.plots):
        if place:
            require_writable(place)
    if args.plots:
        from services.plots import draw  # before the work: it wants a package that may be missing
    if args.protocol != "llamarec":
        from services.protocols import run as run_protocol

        run_protocol(args)
        return
    from services.evaluation import load_both, report
    from shared.data.prepared import load

    began = time.monotonic()
    if args.retriever is None:
        raise BadInput("--protocol llamarec measures a retriever's candidates: give --retriever.")
    data = load(args.data)
    lists, origins = _read(args.lists, data)
    retriever, ranker = load_both(data, args.retriever, args.ranker, args.backbone, args.device)
    made = report(
        data,
        retriever,
        ranker,
        seed=args.seed,
        users=args.users,
        order_users=args.order_users,
        baselines=args.baselines,
        lists=lists,
    )
    if origins:
        made["lists"] = origins
    _show(made)
    if args.json:
        made |= {"wall_seconds": round(time.monotonic() - began, 1), "hardware": hardware()}
        write_text(args.json, json.dumps(made, indent=2) + "\n")
    if args.plots:
        print("\nplots: " + ", ".join(str(path) for path in draw(made, args.plots)))


def _read(words: Sequence[str], data: Prepared) -> tuple[dict[str, dict[int, np.ndarray]], dict[str, dict[str, Any]]]:
    """The lists, and where each came from."""
    from shared.data.lists import read

    found: dict[str, dict[int, np.ndarray]] = {}
    origins = {}
    for word in words:
        name, separator, file = word.partition("=")
        if not (name and separator and file) or name in found:
            raise BadInput(f"--lists {word!r}: write NAME=FILE, each name once.")
        if name in OURS:
            raise BadInput(f"--lists {word!r}: {name} is a row of our own. Give the lists another name.")
        found[name], origins[name] = read(Path(file), data), _origin(Path(file))
        print(f"{name}: lists of {len(found[name]):,} users")
    return found, origins


def _origin(file: Path) -> dict[str, Any]:
    """The file's checksum, and what retriever/rectools.py wrote beside it of how it was made."""
    from shared.artifact import sha256

    told, made = file.with_suffix(".json"), None
    if file.suffix != ".json" and told.is_file():
        with suppress(ValueError):
            made = json.loads(told.read_text())
    ours = isinstance(made, dict) and "packages" in made
    return {"file": file.name, "sha256": sha256(file), "made": made if ours else None}


def _show(made: dict[str, Any]) -> None:
    users = f"{made['users']:,} users"
    metrics_table(made["rows"], f"test, {users}, visible window excluded")
    metrics_table(made["rows_history_excluded"], f"test, {users}, whole history excluded")
    if repeats := made["users_who_repeat"]:
        print(f"\n{repeats:,} of them took again what they had: missed by every system, for it is not recommended")
    if "ranker" not in made:
        return
    found = made["users_where_retrieved"]
    metrics_table(made["rows_where_retrieved"], f"the {found:,} users whose item the retriever found")
    for name, differences in made["against_retriever"].items():
        print(f"\n{name} against lrurec, paired by user")
        for metric, d in differences.items():
            print(f"  {metric:<10} {d['mean']:+.4f}  95 % [{d['low']:+.4f}, {d['high']:+.4f}]  p {d['p_value']:.4f}")
    ranker = made["ranker"]
    print(
        f"\nblend weight {ranker['blend']:.2f}   label mass {ranker['label_mass']:.3f}   "
        f"entropy {ranker['entropy']:.2f} nats"
    )
    if "order_sensitivity" not in made:
        return
    print("\norder of the candidates, language model alone")
    for order in made["order_sensitivity"]:
        print(
            f"  {order['name']:<10} Kendall tau {order['kendall_tau']:.3f}   NDCG@10 {order['ndcg']:.4f}   "
            f"first listed on top {order['first_label_share']:.3f}"
        )


def hardware() -> dict[str, Any]:
    import os
    import platform

    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _processor() or platform.machine(), "cores": os.cpu_count(), "gpu": gpu}


def _processor() -> str | None:
    """The model name where the system tells it (Linux)."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return None
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else None
