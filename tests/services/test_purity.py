"""The gateway starts small and fast: it never reaches a model library."""

from __future__ import annotations

import subprocess
import sys
import time

PROBE = "import sys, {module}; print(*(m for m in {heavy!r} if m in sys.modules))"
HEAVY = ("torch", "faiss", "transformers", "peft", "vllm", "ranker", "retriever", "polars", "matplotlib")


def loaded(module: str) -> tuple[str, float]:
    """Which heavy modules a fresh process holds after the import, and the best of three times, in seconds."""
    times, found = [], ""
    for _ in range(3):
        began = time.perf_counter()
        code = PROBE.format(module=module, heavy=HEAVY)
        found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        times.append(time.perf_counter() - began)
    return found.strip(), min(times)


def test_the_gateway_is_light() -> None:
    heavy, seconds = loaded("services.gateway.app")
    assert heavy == ""
    assert seconds < 1.5


def test_the_command_line_is_light() -> None:
    heavy, seconds = loaded("services.cli")
    assert heavy == ""
    assert seconds < 0.7
