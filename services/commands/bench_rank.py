"""`tandem bench rank|precision`: the language model beside the floor of this machine, and what rounding costs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from shared.errors import BadInput, TandemError

Files = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Rank:
    """The local engine beside plain products of the same shapes, plain transformers, torch.compile and generation; time
    by title length and by candidates; and what is reused between prompts. All in one run, by turns, on fresh prompts.
    """

    backbone: str = "smollm2-135m"
    """A language model: smollm2-135m, a Hugging Face name or a local folder."""
    tokens: int = 600
    """Of each prompt."""
    batch: tuple[int, ...] = (1, 8)
    """Prompts of one call."""
    seconds: float = 6.0
    """Of each way to do the same."""
    compile: bool = True
    """Also torch.compile, for the first batch size alone; needs a C++ compiler and about a minute."""
    also: Files = ()
    """Rows of other engines, as `python -m services.bench.engines ... --json FILE` writes them; repeat it."""
    json: Path | None = None
    """Also write everything to this file."""
    plot: Path | None = None
    """Also draw time by title length and by candidates into this file (PNG)."""


@dataclass(frozen=True, kw_only=True)
class Precision:
    """NDCG@10 of a ranker with rounded weights beside float32, on the test users whose item the retriever found. Exits
    with 1 where it loses more than half a per cent.
    """

    data: Path
    """The prepared data folder."""
    retriever: Path
    """The retriever's artifact."""
    ranker: Path
    """The ranker's artifact."""
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    """The precision in question."""
    users: int = 0
    """Test users, evenly spaced; 0 for all."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: Path | None = None
    """Also write the figures to this file."""


def run(args: Rank | Precision) -> None:
    match args:
        case Rank():
            _rank(args)
        case Precision():
            _precision(args)


def _precision(args: Precision) -> None:
    """Raises BadArtifact."""
    import torch

    from retriever.retrieve import load as load_retriever
    from services.bench.precision import LOSS, gate
    from shared.data.prepared import load

    data = load(args.data)
    found = gate(
        data,
        load_retriever(args.retriever, data.catalog),
        args.ranker,
        getattr(torch, args.dtype),
        args.users,
        args.device,
    )
    print(
        f"{found.users} users: NDCG@10 {found.exact:.4f} in float32, {found.rounded:.4f} in {args.dtype} "
        f"({-100 * found.loss:+.2f} %); Kendall tau {found.tau:.4f}, log probabilities off by up to {found.logit:.3f}"
    )
    if args.json:
        from shared.artifact import write_text

        write_text(args.json, json.dumps(asdict(found) | {"dtype": args.dtype, "loss": found.loss}, indent=2) + "\n")
    if not found.passes:
        raise TandemError(f"{args.dtype} loses {100 * found.loss:.2f} % of NDCG@10, {100 * LOSS} % is the bound")


def _rank(args: Rank) -> None:
    from services.bench.rank import Settings
    from services.bench.rank import run as bench

    for path in args.also:
        if not path.is_file():
            raise BadInput(f"--also {path}: there is no such file. `python -m services.bench.engines` writes one.")
    settings = Settings(
        backbone=args.backbone,
        tokens=args.tokens,
        batches=args.batch,
        seconds=args.seconds,
        compile=args.compile,
        also=args.also,
    )
    report = bench(settings, said=lambda line: print(line, flush=True))
    _print(report)
    if args.json:
        from shared.artifact import write_text

        write_text(args.json, json.dumps(report, indent=2) + "\n")
    if args.plot:
        from services.bench.plots import rank

        rank(report, args.plot)


def _print(report: dict[str, Any]) -> None:
    for one in report["engines"]:
        print(f"\n{one['batch']} x {one['tokens']} tokens: {one['tflop']} TFLOP at {one['tflop_per_s']} TFLOP/s")
        print(f"{'floor':<28}{one['floor_ms']:>9.1f} ms")
        for name, row in one["ms"].items():
            print(f"{name:<28}{row['p50']:>9.1f} ms   p99 {row['p99']:>9.1f} ms   {row['over_floor']:>7.2f} x floor")
    for row in report["others"]:
        over = f"{row['over_floor']:>7.2f} x floor" if row["over_floor"] else ""
        print(f"{row['engine']} {row['precision']}, batch {row['batch']}: {row['ratio']:.2f} x transformers   {over}")
    for row in [*report["titles"], *report["candidates"]]:
        ms = row["ms"]
        print(
            f"titles of {row['title']:>2} tokens, {row['candidates']:>2} candidates, {row['tokens']:>4} tokens: "
            f"verbalizer {ms['verbalizer']['p50']:.0f} ms, generation {ms['generation']['p50']:.0f} ms"
        )
    users, branches, recllm = (report["reuse"][kind] for kind in ("user", "branches", "recllm"))
    for user in users:
        split = f"{user['known']} tokens known, {user['new']} new"
        print(f"a user's second request, {split}: {user['over_share']:.2f} x the share of its new tokens")
    print(f"{branches['branches']} prompts of one head: {branches['over_one']:.2f} x one prompt of the distinct tokens")
    print(f"RecLLM with a cached vector: {recllm['ms']['cached vector']['p50']:.3f} ms")
