"""The language model's share of a request: engines beside the floor, verbalizer beside generation, and what is reused.

All ways of one comparison take turns in one run, with prompts that are new in every turn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ranker import backbone
from ranker.backbone import Backbone
from ranker.engines.linear import packs
from ranker.engines.local import LocalEngine
from services.bench.floor import Shape, products
from services.bench.machine import load_average, machine
from services.bench.timing import timed

LABELS = list(range(330, 350))
GENERATED = 20
"""Tokens of the title in the engines' table."""
TITLES = (5, 10, 20, 40, 60)
CANDIDATES = (5, 10, 15, 20)
HISTORY, FRAME = 10, 30
"""Items of history and tokens around the titles in the figure of title lengths."""
SPLITS = ((200, 400), (300, 300), (400, 200))
"""Tokens known from a user's first request, and new ones of the second."""
HEAD, BRANCHES, BRANCH = 200, 20, 20
ITEMS, USERS = 10_000, 1_000

Call = Callable[[int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    backbone: str
    tokens: int
    batches: tuple[int, ...]
    seconds: float
    compile: bool
    also: tuple[Path, ...] = ()


def run(settings: Settings, said: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    began = time.monotonic()
    base = backbone.load(settings.backbone)
    exact = backbone.load(settings.backbone, dtype=torch.float32)
    report: dict[str, Any] = {
        "settings": asdict(settings) | {"also": [str(path) for path in settings.also]},
        "machine": machine() | {"threads": torch.get_num_threads(), "torch": torch.__version__},
        "dtype": str(base.dtype).removeprefix("torch."),
    }
    report["engines"] = [_engines(settings, base, exact, batch, said) for batch in settings.batches]
    report["others"] = others(settings.also, report["engines"])
    said("titles and candidates")
    report["titles"] = [_against_generation(settings, base, title, max(CANDIDATES)) for title in TITLES]
    report["candidates"] = [_against_generation(settings, base, GENERATED, count) for count in CANDIDATES]
    said("reuse")
    report["reuse"] = _reuse(settings, base)
    return report | {"load_average": load_average(), "wall_s": round(time.monotonic() - began, 1)}


def _engines(
    settings: Settings, base: Backbone, exact: Backbone, batch: int, said: Callable[[str], None]
) -> dict[str, Any]:
    """Per way: median and 99th percentile of a call in milliseconds, and its median over the floor."""
    tokens, shape = settings.tokens, Shape.of(base.model.config)
    calls: dict[str, Call] = {
        "plain products": _ignoring(products(shape, batch * tokens, base.dtype, base.device, False))
    }
    if packs(base.device, base.dtype, base.model.model.layers):
        packed = products(shape, batch * tokens, base.dtype, base.device, True)
        calls["packed products"] = _ignoring(packed)
    calls["local"] = _labels_of(LocalEngine(base), batch, tokens)
    calls[f"transformers {_name(base.dtype)}"] = _plain(base, base.model.model, batch, tokens)
    calls["transformers float32"] = _plain(exact, exact.model.model, batch, tokens)
    compiled_s = None
    if settings.compile and batch == settings.batches[0]:
        compiled_s, calls["torch.compile"] = _compiled(base, batch, tokens, said)
    if batch == 1:
        calls[f"generation of {GENERATED} tokens"] = _generation(base, tokens, GENERATED)
    for call in calls.values():
        call(0)
    ms = timed(calls, settings.seconds * len(calls))
    linear_ms = min(ms[name]["p50"] for name in ms if name.endswith("products"))
    flop = shape.flop([tokens] * batch)
    floor_ms = linear_ms * flop / shape.linear_flop(batch * tokens)
    rows = {name: one | {"over_floor": round(one["p50"] / floor_ms, 3)} for name, one in ms.items()}
    said(f"batch {batch}: floor {floor_ms:.1f} ms, local {rows['local']['over_floor']:.2f} of it")
    rate = flop / floor_ms * 1e-9
    return {
        "batch": batch,
        "tokens": tokens,
        "tflop": round(flop * 1e-12, 4),
        "tflop_per_s": round(rate, 3),
        "floor_ms": round(floor_ms, 3),
        "compile_s": compiled_s,
        "ms": rows,
    }


def others(files: Sequence[Path], engines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows that other environments wrote (services/bench/engines.py). Their unit, transformers in bfloat16, is ours as
    well, so that what they took of it tells what they take of this run's floor."""
    found = []
    by_batch = {one["batch"]: one["ms"].get("transformers bfloat16") for one in engines}
    for path in files:
        for row in json.loads(path.read_text())["rows"]:
            unit = by_batch.get(row["batch"])
            over = round(row["ratio"] * unit["over_floor"], 3) if unit else None
            found.append(row | {"over_floor": over, "file": path.name})
    return found


def _against_generation(settings: Settings, base: Backbone, title: int, candidates: int) -> dict[str, Any]:
    """LlamaRec's figure: one forward and the labels, beside one forward and a title, token by token."""
    tokens = FRAME + (HISTORY + candidates) * title
    calls = {"verbalizer": _labels_of(LocalEngine(base), 1, tokens), "generation": _generation(base, tokens, title)}
    return {"title": title, "candidates": candidates, "tokens": tokens, "ms": timed(calls, settings.seconds)}


def _reuse(settings: Settings, base: Backbone) -> dict[str, Any]:
    users = [_same_user(settings, base, known, new) for known, new in SPLITS]
    return {"user": users, "branches": _same_head(settings, base), "recllm": _same_vector(settings, base)}


def _same_user(settings: Settings, base: Backbone, known: int, new: int) -> dict[str, Any]:
    """over_share: the second request's time over the new tokens' share of a whole prompt's."""
    engine, history = LocalEngine(base), _tokens(base, known, 0)
    engine.label_logits([history + _tokens(base, new, 1)], LABELS, keep=[known])

    def second(turn: int) -> object:
        return engine.label_logits([history + _tokens(base, new, turn + 2)], LABELS, keep=[known])

    ms = timed({"whole": _labels_of(LocalEngine(base), 1, known + new), "second": second}, settings.seconds)
    over = ms["second"]["p50"] / (ms["whole"]["p50"] * new / (known + new))
    return {"known": known, "new": new, "ms": ms, "over_share": round(over, 3)}


def _same_head(settings: Settings, base: Backbone) -> dict[str, Any]:
    """over_one: CoLLM's prompts of one user over one prompt of their distinct tokens."""
    engine = LocalEngine(base)

    def candidates(turn: int) -> object:
        head = _tokens(base, HEAD, turn)
        return engine.label_logits([head + _tokens(base, BRANCH, 1000 * turn + n) for n in range(BRANCHES)], LABELS[:2])

    distinct = HEAD + BRANCHES * BRANCH
    ms = timed({"one": _labels_of(LocalEngine(base), 1, distinct), "prompts": candidates}, settings.seconds)
    over = ms["prompts"]["p50"] / ms["one"]["p50"]
    return {"head": HEAD, "branches": BRANCHES, "branch": BRANCH, "ms": ms, "over_one": round(over, 3)}


def _same_vector(settings: Settings, base: Backbone) -> dict[str, Any]:
    from ranker.cllm4rec.model import CLLM4Rec, Embeddings, random
    from ranker.cllm4rec.rank import scorer
    from ranker.cllm4rec.recipes import CLLM4RecConfig
    from shared.history import History

    config = CLLM4RecConfig()
    table_SD = random(base.model.get_input_embeddings().weight, USERS + ITEMS, 0).to(base.dtype)
    model = CLLM4Rec(base, Embeddings(USERS, table_SD).requires_grad_(False), 1.0)
    recllm = scorer(model, base, [f"u{n}" for n in range(USERS)], ITEMS, config, LocalEngine(base))
    rng = np.random.default_rng(0)

    def ask(history: Sequence[int]) -> object:
        return recllm.score([History(tuple(history), "u1")], [rng.integers(1, ITEMS, size=20).tolist()])

    kept = rng.integers(1, ITEMS, size=30).tolist()
    ask(kept)
    calls: dict[str, Call] = {
        "new history": lambda turn: ask(rng.integers(1, ITEMS, size=30).tolist()),
        "cached vector": lambda turn: ask(kept),
    }
    return {"items": ITEMS, "history": 30, "ms": timed(calls, settings.seconds)}


def _labels_of(engine: LocalEngine, batch: int, tokens: int) -> Call:
    base = engine.backbone
    return lambda turn: engine.label_logits([_tokens(base, tokens, 97 * turn + n) for n in range(batch)], LABELS)


def _plain(base: Backbone, inner: Any, batch: int, tokens: int) -> Call:
    """As any user of transformers would ask, but for the head: the label rows alone."""
    rows_KD = base.model.lm_head.weight[LABELS]

    @torch.inference_mode()
    def call(turn: int) -> object:
        ids_BT = torch.tensor([_tokens(base, tokens, 97 * turn + n) for n in range(batch)], device=base.device)
        return (inner(input_ids=ids_BT).last_hidden_state[:, -1] @ rows_KD.T).float().cpu()

    return call


def _compiled(base: Backbone, batch: int, tokens: int, said: Callable[[str], None]) -> tuple[float, Call]:
    said(f"torch.compile for {batch} x {tokens}")
    inner = base.shared().model.model
    call = _plain(base, torch.compile(inner, dynamic=False), batch, tokens)
    began = time.monotonic()
    call(0)
    return round(time.monotonic() - began, 1), call


def _generation(base: Backbone, tokens: int, made: int) -> Call:
    """Greedy, always to the full length, out of transformers' own cache of keys and values."""

    @torch.inference_mode()
    def call(turn: int) -> object:
        ids_1T = torch.tensor([_tokens(base, tokens, 97 * turn)], device=base.device)
        kwargs = {"max_new_tokens": made, "min_new_tokens": made, "do_sample": False, "pad_token_id": 0}
        return base.model.generate(ids_1T, attention_mask=torch.ones_like(ids_1T), use_cache=True, **kwargs)

    return call


def _tokens(base: Backbone, count: int, seed: int) -> list[int]:
    top = base.model.config.vocab_size
    return [int(token) for token in np.random.default_rng(seed).integers(top // 10, top, size=count)]


def _ignoring(run: Callable[[], None]) -> Call:
    return lambda turn: run()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
