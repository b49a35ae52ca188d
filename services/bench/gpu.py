"""The local engine's forward at the shapes of Llama-2-7B and SmolLM2-135M, with random weights, on any device.

    python -m services.bench.gpu --json gpu.json          needs torch and nothing else

Prompts a second, median and 99th percentile, beside the rate at which the device multiplies matrices of the same
shapes. fp8 (e4m3, a scale for each token and each row of the weights) where the device has it: compute capability 8.9
or more.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ranker.engines.lean import LeanLlama, Segment
from services.bench.floor import Shape, products
from services.bench.machine import machine

SHAPES = {
    "llama-2-7b": Shape(layers=32, hidden=4096, heads=32, kv_heads=32, head=128, inner=11008),
    "smollm2-135m": Shape(layers=30, hidden=576, heads=9, kv_heads=3, head=64, inner=1536),
    "tiny": Shape(layers=2, hidden=64, heads=4, kv_heads=2, head=16, inner=128),
}
FP8 = torch.float8_e4m3fn
TOP = torch.finfo(FP8).max


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.variance_epsilon = 1e-5


class Angles(nn.Module):
    rates: Tensor

    def __init__(self, head: int) -> None:
        super().__init__()
        self.register_buffer("rates", 1.0 / 10_000 ** (torch.arange(0, head, 2) / head), persistent=False)

    def forward(self, x_ND: Tensor, places_1N: Tensor) -> tuple[Tensor, Tensor]:
        turned = (places_1N[..., None] * self.rates.float()).repeat(1, 1, 2)
        return turned.cos().to(x_ND.dtype), turned.sin().to(x_ND.dtype)


class Fp8Linear(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features
        scale_O1 = linear.weight.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / TOP
        self.weight_OI, self.scale_1O = (linear.weight.float() / scale_O1).to(FP8), scale_O1.T.contiguous()

    def forward(self, x_NI: Tensor) -> Tensor:
        scale_N1 = x_NI.abs().amax(1, keepdim=True).float().clamp(min=1e-12) / TOP
        low_NI = (x_NI.float() / scale_N1).to(FP8)
        return torch._scaled_mm(low_NI, self.weight_OI.T, scale_a=scale_N1, scale_b=self.scale_1O, out_dtype=x_NI.dtype)


def made(shape: Shape, dtype: torch.dtype, device: torch.device, fp8: bool) -> Any:
    """A Llama with the names that the forward reads."""

    def linear(into: int, out: int) -> nn.Module:
        with device:
            plain = nn.Linear(into, out, bias=False, dtype=dtype).requires_grad_(False)
        return Fp8Linear(plain) if fp8 else plain

    def layer() -> Any:
        attention, keys = shape.heads * shape.head, shape.kv_heads * shape.head
        return nn.ModuleDict(
            {
                "input_layernorm": Norm(shape.hidden),
                "post_attention_layernorm": Norm(shape.hidden),
                "self_attn": nn.ModuleDict(
                    {
                        "q_proj": linear(shape.hidden, attention),
                        "k_proj": linear(shape.hidden, keys),
                        "v_proj": linear(shape.hidden, keys),
                        "o_proj": linear(attention, shape.hidden),
                    }
                ),
                "mlp": nn.ModuleDict(
                    {
                        "gate_proj": linear(shape.hidden, shape.inner),
                        "up_proj": linear(shape.hidden, shape.inner),
                        "down_proj": linear(shape.inner, shape.hidden),
                    }
                ),
            }
        )

    inner = nn.ModuleDict(
        {
            "layers": nn.ModuleList([layer() for _ in range(shape.layers)]),
            "norm": Norm(shape.hidden),
            "rotary_emb": Angles(shape.head),
        }
    )
    inner.to(device)
    for module in inner.modules():
        if isinstance(module, Norm):
            module.to(dtype)
    config = SimpleNamespace(num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads)
    return SimpleNamespace(config=config, model=inner)


def measure(run: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Seconds of each call, in rising order; at least 5 after 2 to warm up."""
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while len(taken) < 7 or time.perf_counter() < until:
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return sorted(taken[2:])


def rows(name: str, args: argparse.Namespace, device: torch.device, fp8: bool) -> list[dict[str, Any]]:
    shape, dtype = SHAPES[name], torch.bfloat16
    forward = LeanLlama(made(shape, dtype, device, fp8))
    found = []
    for tokens in args.tokens:
        for batch in args.batch:
            x_ND = torch.randn(batch * tokens, shape.hidden, device=device).to(dtype)
            segments = [Segment(tokens, [tokens - 1]) for _ in range(batch)]

            def run(x_ND: Tensor = x_ND, segments: list[Segment] = segments) -> object:
                return forward.run(x_ND, segments)[0]

            taken = measure(run, device, args.seconds)
            plain = measure(products(shape, batch * tokens, dtype, device, packed=False), device, args.seconds)
            rate = shape.linear_flop(batch * tokens) / plain[len(plain) // 2]
            flop, middle = shape.flop([tokens] * batch), taken[len(taken) // 2]
            found.append(
                {
                    "shape": name,
                    "weights": "random",
                    "precision": "fp8" if fp8 else "bf16",
                    "tokens": tokens,
                    "batch": batch,
                    "prompts_per_s": round(batch / middle, 2),
                    "p50_ms": round(middle * 1000, 3),
                    "p99_ms": round(taken[int(0.99 * (len(taken) - 1))] * 1000, 3),
                    "tflop_per_s": round(flop / middle * 1e-12, 3),
                    "matrix_tflop_per_s_bf16": round(rate * 1e-12, 3),
                    "of_matrix_rate": round(flop / middle / rate, 3),
                }
            )
            print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=["llama-2-7b", "smollm2-135m"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[500, 1000], help="(default 500 1000)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="(default 1 8 32)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    capable = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    found = [
        row for name in args.shape for fp8 in (False, True)[: 1 + capable] for row in rows(name, args, device, fp8)
    ]
    if args.json:
        report = {"device": what, "machine": machine(), "torch": torch.__version__, "rows": found}
        args.json.with_suffix(".draft").write_text(json.dumps(report, indent=2) + "\n")
        args.json.with_suffix(".draft").replace(args.json)


if __name__ == "__main__":
    main()
