"""`tandem train retriever|ranker`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from shared.artifact import MANIFEST, Manifest, alone, require_replaceable, trained_elsewhere
from shared.errors import BadInput

if TYPE_CHECKING:
    from shared.data.pairs import NextData, PairData
    from shared.data.prepared import Prepared

Settings = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="set", metavar="KEY=VALUE")]
Members = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Retriever:
    """Train LRURec on a prepared data folder and index its items with FAISS."""

    data: Path
    """The prepared data folder."""
    out: Path
    """The retriever's artifact. What stands there is replaced once training is complete."""
    recipe: str = "auto"
    """default or movielens; auto takes the one that suits the data folder."""
    settings: Settings = ()
    """Override a field of the recipe, such as --set dropout=0.3; repeatable."""
    resume: bool = False
    """Go on from the checkpoint of an interrupted training into the same --out."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Make one retriever of several that were trained alike but for --set seed=: their scores are added."""

    data: Path
    """The prepared data folder."""
    retriever: Members
    """A trained retriever's artifact; repeat it."""
    out: Path
    """The ensemble's artifact. What stands there is replaced."""


@dataclass(frozen=True, kw_only=True)
class Ranker:
    """Train a language model to order the retriever's candidates."""

    data: Path
    """The prepared data folder; for collm, tallrec and llara also the folder of their papers' own evaluation data."""
    out: Path
    """The ranker's artifact. What stands there is replaced once training is complete."""
    retriever: Path | None = None
    """The retriever's artifact: it chooses validation candidates and hard negatives, and the blend is fitted to it.
    Not needed on the papers' own data, nor by cllm4rec, which then stand alone."""
    method: Literal["llamarec", "collm", "tallrec", "llara", "cllm4rec"] = "llamarec"
    """How the language model ranks. tallrec is collm's first step alone; cllm4rec is served as recllm."""
    split: Path | None = None
    """llara: the folder of the paper's MovieLens rows, where --data is all of ML-100K, prepared."""
    backbone: str | None = None
    """smollm2-135m, a Hugging Face name or a local folder; the recipe's own where absent."""
    recipe: str = "demo"
    """demo, and titles for llamarec (a CPU); full, and but for cllm4rec paper (a GPU); paper-format for llamarec."""
    settings: Settings = ()
    """Override a field of the recipe, such as --set prompts=4000; repeatable."""
    resume: bool = False
    """Go on from the checkpoint of an interrupted training into the same --out."""
    device: str = "auto"
    """auto, cpu or cuda."""


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Fit the weight between a trained ranker and a retriever again, after the retriever was trained anew."""

    data: Path
    """The prepared data folder."""
    retriever: Path
    """The retriever's artifact."""
    ranker: Path
    """The ranker's artifact; its blend weight is replaced, all else stays."""
    weight: float | None = None
    """Take this one, 0 (the retriever's order) to 1 (the language model alone), in place of the fitted one, which is
    shown all the same: for a comparison on real users. Nothing then keeps the answers from being worse than the
    retriever's."""
    device: str = "auto"
    """auto, cpu or cuda."""


def run(args: Retriever | Ensemble | Ranker | Blend) -> None:
    out = args.ranker if isinstance(args, Blend) else args.out
    with alone(out):
        match args:
            case Ensemble():
                _ensemble(args)
            case Blend():
                _blend(args)
            case Retriever():
                _resumable(out, lambda: _retriever(args))
            case Ranker():
                _resumable(out, lambda: _ranker(args))


def _resumable(out: Path, training: Callable[[], None]) -> None:
    """Raises KeyboardInterrupt with what to do now, where there is a checkpoint."""
    try:
        training()
    except KeyboardInterrupt:
        kept = out.with_name(out.name + ".partial")
        if not kept.is_dir():
            raise
        told = f"interrupted. {kept} holds what was learnt so far: the same command with --resume goes on from there"
        raise KeyboardInterrupt(told) from None


def _retriever(args: Retriever) -> None:
    """Prints test metrics with popularity beside them."""
    from retriever.recipes import configure, for_dataset
    from retriever.train import train
    from shared.data.prepared import load

    overrides = pairs(args.settings)
    require_replaceable(args.out)
    data = load(args.data)
    recipe = for_dataset(data.manifest.method) if args.recipe == "auto" else args.recipe
    manifest = train(data, configure(recipe, overrides), args.out, args.resume)
    print(f"written: {args.out} ({manifest.name}), recipe {recipe}, best at step {manifest.metrics['best_step']}")
    _measured(data, args.out)


def _ensemble(args: Ensemble) -> None:
    from retriever.join import join
    from shared.data.prepared import load

    require_replaceable(args.out)
    data = load(args.data)
    manifest = join(data, args.retriever, args.out)
    valid = manifest.metrics["valid_recall@10"]
    print(f"written: {args.out} ({manifest.name}), {len(args.retriever)} members, validation Recall@10 {valid:.4f}")
    _measured(data, args.out)


def _measured(data: Prepared, folder: Path) -> None:
    from retriever.retrieve import load
    from services.commands.tables import metrics_table
    from services.evaluation import retrieve
    from shared.metrics import table

    stage = retrieve(data, load(folder, data.catalog), "window")
    rows = {name: table(ranks_U) for name, ranks_U in stage.ranks.items()}
    metrics_table(rows, f"test, {len(stage.cases):,} users, visible window excluded")


def _ranker(args: Ranker) -> None:
    overrides = pairs(args.settings)
    if args.backbone:
        overrides["backbone"] = args.backbone
    require_replaceable(args.out)
    if args.method == "llamarec":
        _llamarec(args, overrides)
        return
    manifest = {"collm": _collm, "tallrec": _collm, "llara": _llara, "cllm4rec": _cllm4rec}[args.method](
        args, overrides
    )
    measured = {name: value for name, value in manifest.metrics.items() if name.startswith("valid")}
    print(f"written: {args.out} ({manifest.name}), {measured}")
    if "blend_gain" in manifest.metrics:
        _show_blend(manifest)


def _llamarec(args: Ranker, overrides: dict[str, str]) -> None:
    from ranker.llamarec.model import configure
    from ranker.llamarec.train import train
    from retriever.retrieve import load as load_retriever
    from shared.data.prepared import load

    config = configure(args.recipe, overrides)
    if args.retriever is None:
        raise BadInput("--method llamarec ranks a retriever's candidates: give --retriever.")
    data = load(args.data)
    loaded = load_retriever(args.retriever, data.catalog)
    _warn(loaded.manifest, data.digest)
    manifest = train(data, loaded.retriever, loaded.manifest.name, config, args.out, args.resume, args.device)
    print(f"language model alone, validation NDCG@10: {manifest.metrics['valid_ndcg@10']:.4f}")
    _show_blend(manifest)


def _collm(args: Ranker, overrides: dict[str, str]) -> Manifest:
    from ranker.collm.recipes import configure
    from ranker.collm.train import train
    from shared.data import collm
    from shared.data.prepared import load

    config = configure(args.recipe, overrides, text_only=args.method == "tallrec")
    data = load(args.data) if is_prepared(args.data) else collm.read(args.data, config.window)
    return train(data, config, args.out, **_first_stage(args, data), resume=args.resume, device=args.device)


def _llara(args: Ranker, overrides: dict[str, str]) -> Manifest:
    from ranker.llara.recipes import configure
    from ranker.llara.train import train
    from shared.data import llara
    from shared.data.prepared import load

    config = configure(args.recipe, overrides)
    prepared = load(args.data) if is_prepared(args.data) else None
    rows = {"window": config.history, "shortest": config.shortest}
    data = prepared if prepared and not args.split else llara.read(args.split or args.data, prepared, **rows)
    return train(data, config, args.out, **_first_stage(args, data), resume=args.resume, device=args.device)


def _cllm4rec(args: Ranker, overrides: dict[str, str]) -> Manifest:
    from ranker.cllm4rec.recipes import configure
    from ranker.cllm4rec.train import train
    from shared.data.prepared import load

    config = configure(args.recipe, overrides)
    data = load(args.data)
    stage = _first_stage(args, data)
    stage.pop("retriever_folder", None)
    manifest = train(data, config, args.out, **stage, resume=args.resume, device=args.device)
    if lost := lost_in_tuning(manifest.metrics["stages"]):
        print(lost)
    return manifest


def lost_in_tuning(stages: Mapping[str, Any]) -> str:
    """What to do where CLLM4Rec's fine-tuning ended below what it began from; else nothing."""
    best = {name: max((valid for _, valid, _ in stage["curve"]), default=None) for name, stage in stages.items()}
    before, after = best.get("pretrain"), best.get("recllm")
    if before is None or after is None or after >= before:
        return ""
    return (
        f"Fine-tuning ended at {after:.3f}, below the {before:.3f} that it began from. --set finetune=false serves "
        "what was there before; more of it (--set tune=) may come back."
    )


def is_prepared(folder: Path) -> bool:
    """And not a paper's own evaluation data."""
    return (folder / MANIFEST).is_file()


def _first_stage(args: Ranker, data: Prepared | PairData | NextData) -> dict[str, Any]:
    """The retriever, where one was given."""
    from retriever.retrieve import load as load_retriever

    if args.retriever is None:
        return {}
    loaded = load_retriever(args.retriever, data.catalog)
    _warn(loaded.manifest, data.digest)
    return {
        "retriever": loaded.retriever,
        "retriever_name": loaded.manifest.name,
        "retriever_folder": args.retriever,
    }


def _warn(retriever: Manifest, digest: str) -> None:
    if said := trained_elsewhere(retriever, digest):
        print(f"note: {said}", file=sys.stderr)


def _blend(args: Blend) -> None:
    from ranker.refit import refit
    from retriever.retrieve import load as load_retriever
    from shared.data.prepared import load

    if args.weight is not None and not 0 <= args.weight <= 1:
        raise BadInput(f"--weight {args.weight}: 0 to 1")
    data = load(args.data)
    loaded = load_retriever(args.retriever, data.catalog)
    _warn(loaded.manifest, data.digest)
    manifest = refit(data, loaded.retriever, loaded.manifest.name, args.ranker, args.device, args.weight)
    print(f"written: {args.ranker} ({manifest.name}), blended with {loaded.manifest.name}")
    _show_blend(manifest, by_hand=args.weight is not None)


def _show_blend(manifest: Manifest, by_hand: bool = False) -> None:
    from ranker.blend import CHI_SQUARE_5_PERCENT

    gain, ratio = manifest.metrics["blend_gain"], manifest.metrics["blend_likelihood_ratio"]
    weight, likeliest = manifest.extra["blend"], manifest.metrics["blend_likeliest"]
    print(
        f"blend weight {weight:.2f}{' as given' if by_hand else ''}; likeliest is {likeliest:.2f} (likelihood ratio "
        f"{ratio:.1f}, {CHI_SQUARE_5_PERCENT:.1f} needed). NDCG@10 over the retriever on validation, at "
        f"{weight if by_hand else likeliest:.2f}: {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
    )


def pairs(settings: tuple[str, ...]) -> dict[str, str]:
    """Raises BadInput for what is no key=value."""
    overrides = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadInput(f"--set {setting}: give key=value, such as --set batch=32")
        overrides[key] = value
    return overrides
