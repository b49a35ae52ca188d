"""What a benchmark's figures were taken on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    return {"cpu": _processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}


def load_average() -> float:
    """Of the last minute: 0 on an idle machine, the number of cores on a busy one."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str | None:
    """The model's name where the system tells it (Linux)."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
