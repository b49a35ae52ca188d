"""`tandem stack`: Redis and the separate services as processes, which is what docker-compose.yml runs."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.stack.graph import HOST, Ports
from shared.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Redis, retrieval, ranking and the gateway, each with its own process; what ends is started again.

    Ctrl-C ends all of them. The first start makes the demo's release, as `tandem demo --no-train` does.
    """

    env_file: Path = Path(".env")
    """The settings, which docker compose reads too. docker/env.sh makes it."""
    registry: Path = Path("artifacts/registry")
    """The releases; the current one is served."""
    demo: Path = Path("artifacts/demo")
    """Where what the first release is made of is kept."""
    port: int = 8000
    """The gateway's port; all of them listen at the loopback alone."""
    retrieval_port: int = 8001
    """The port of retrieval."""
    ranking_port: int = 8002
    """The port of ranking."""
    redis_port: int = 6379
    """The port of Redis."""
    grace_s: float = 35
    """After SIGTERM a part has this long to end. Seconds; more than TANDEM_SHUTDOWN_GRACE_S."""


def run(args: Stack) -> None:
    """Raises BadInput for a port that is taken, Unavailable for a part that cannot be had."""
    from services.stack.graph import parts
    from services.stack.supervisor import Supervisor

    ports = Ports(gateway=args.port, retrieval=args.retrieval_port, ranking=args.ranking_port, redis=args.redis_port)
    chosen = parts(settings(args.env_file), args.registry, args.demo, ports)
    for option in ("port", "retrieval_port", "ranking_port", "redis_port"):
        _require_free(getattr(args, option), option.replace("_", "-"))
    print(f"Serving at http://{HOST}:{args.port} once all of it is ready. Ctrl-C stops it.", file=sys.stderr)

    async def supervise() -> None:
        await Supervisor(chosen, args.grace_s, _say).run()

    asyncio.run(supervise())


def settings(file: Path) -> Mapping[str, str]:
    """The file's, and over them the environment's, as docker compose has it. Raises BadInput."""
    from dotenv import dotenv_values

    if not file.is_file():
        raise BadInput(f"there is no {file}. docker/env.sh makes .env; --env-file names another one.")
    return {name: value for name, value in dotenv_values(file).items() if value is not None} | os.environ


def _require_free(port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BadInput(f"cannot listen at {HOST}:{port}: {error.strerror}. Give another --{option}.") from None


def _say(name: str, line: str) -> None:
    print(f"{name:<9} | {line}", flush=True)
