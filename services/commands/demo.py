"""`tandem demo`: from nothing to a served recommendation on MovieLens, with what each stage did in sight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.errors import BadInput, Unavailable

DATASET: Final = "ml-100k"
CANDIDATES = 20
RANKERS = ("llamarec", "collm", "llara", "recllm")
"""Shipped as ranker/shipped/NAME-ml-100k; the first is what a request gets that names none."""
START_TIMEOUT_S = 180


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Prepare MovieLens-100K, train the retriever, serve it with the four shipped rankers and ask for one user.

    The first run downloads 85 MB (the data and SmolLM2-135M) and trains for about five minutes on two cores;
    later ones reuse what it made.
    """

    once: bool = False
    """Exit after the answer instead of serving until Ctrl-C."""
    home: Path = Path("artifacts/demo")
    """Where the prepared data and the retriever are kept between runs."""
    user: str = "1"
    """Whose recommendations to show: a MovieLens user, 1 to 943."""
    host: str = "127.0.0.1"
    """The address to listen at."""
    port: int = 8000
    """The port to listen at."""
    train: bool = True
    """Train the retriever, unless --home has one; --no-train then takes the shipped one, which the same recipe made."""
    registry: Path | None = None
    """Serve nothing: publish what was made into this registry, where it has no current release yet."""


def run(args: Demo) -> None:
    if args.registry:
        _publish(args.registry, args.home, args.train)
    else:
        _show(args)


def _publish(folder: Path, home: Path, train: bool) -> None:
    """With the language model at hand as well, so that a service need not fetch it."""
    from shared.registry import CURRENT, Registry

    if (folder / CURRENT).exists():
        return
    from ranker.backbone import smollm2_folder
    from services.releases.publish import publish

    smollm2_folder()
    _prepare(home)
    retriever = _retriever(home, train)
    registry = Registry(folder)
    release = publish(registry, home / DATASET, retriever, shipped())
    registry.point(release.id)
    print(f"published {release.id} to {folder}", file=sys.stderr)


def shipped() -> list[Path]:
    from ranker.registry import SHIPPED

    return [SHIPPED / f"{name}-{DATASET}" for name in RANKERS]


def _show(args: Demo) -> None:
    from services.commands.orders import columns, said, table
    from shared.data.prepared import load

    _prepare(args.home)
    data = load(args.home / DATASET)
    history = data.history(args.user)
    retriever = _retriever(args.home, args.train)
    with _serving(args, retriever) as base:
        titles = [data.catalog[i].title for i in history.items]
        print(f"\nUser {args.user} of MovieLens: {len(titles)} films, the latest ten, oldest first")
        for title in titles[-10:]:
            print(f"    {title}")
        asked = {"user_id": args.user, "limit": CANDIDATES, "timeout_ms": 10_000, "include": ["scores"]}
        retrieved = _ask(base, asked | {"ranker": "retrieval"})
        ranked = {name: _ask(base, asked | {"ranker": name}) for name in RANKERS}
        rankers = columns(shipped(), ranked)
        found, maker = len(retrieved["items"]), retrieved["model"]["retriever"]
        print(f"\n{found} candidates of {maker}: their place as served by each")
        print("ranker, and in brackets the place that its language model alone would give them\n")
        print("\n".join(table(data, retrieved, ranked, rankers)) + "\n")
        print("\n".join(said(rankers)))
        for name, answer in ranked.items():
            _how(name, answer)
        body = json.dumps({"user_id": args.user, "limit": 10, "ranker": "NAME", "timeout_ms": 5000})
        while_it_runs = " while `make demo` runs (without --once)" if args.once else ""
        print(f"\nThe same by hand{while_it_runs}, NAME one of {', '.join(RANKERS)}, retrieval:")
        print(f"  curl -s {base}/recommend -H 'content-type: application/json' -d '{body}'")
        if not args.once:
            print(f"\nServing at {base} (its API: {base}/docs). Ctrl-C stops it.", flush=True)
            _until_interrupted()


def _prepare(home: Path) -> None:
    from services.commands import data

    if not (home / DATASET / "manifest.json").is_file():
        print("1. MovieLens-100K", file=sys.stderr)
        data.run(data.Prepare(dataset=DATASET, out=home / DATASET))


def _retriever(home: Path, train: bool) -> Path:
    made = home / "retriever"
    if (made / "manifest.json").is_file():
        return made
    if not train:
        from retriever.retrieve import SHIPPED

        return SHIPPED / f"lrurec-{DATASET}"
    from services.commands import train as command

    print("2. LRURec, the retriever: some five minutes on two cores, once", file=sys.stderr)
    if (home / "retriever.partial" / "run.json").is_file():
        try:
            command.run(command.Retriever(data=home / DATASET, out=made, resume=True))
            return made
        except BadInput as error:  # begun by another version
            print(f"from the beginning: {error}", file=sys.stderr)
    command.run(command.Retriever(data=home / DATASET, out=made))
    return made


@contextmanager
def _serving(args: Demo, retriever: Path) -> Iterator[str]:
    """`tandem serve all` as its own process, ready; stopped at the end."""
    base = f"http://{args.host}:{args.port}"
    _require_free(args.host, args.port)
    words = ["serve", "all", "--data", str(args.home / DATASET), "--retriever", str(retriever)]
    words += [word for folder in shipped() for word in ("--ranker", str(folder))]
    words += ["--host", args.host, "--port", str(args.port)]
    environment = {"TANDEM_LOG_LEVEL": "warning"} | os.environ
    command = [sys.executable, "-m", "services.cli", *words]
    server = subprocess.Popen(command, env=environment)  # noqa: S603  our own command
    try:
        _wait_until_ready(base, server)
        yield base
    finally:
        server.terminate()
        server.wait(timeout=30)


def _require_free(host: str, port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadInput(f"cannot listen at {host}:{port}: {error.strerror}. Give another --port.") from None


def _wait_until_ready(base: str, server: subprocess.Popen[bytes]) -> None:
    import httpx

    print("Loading the language model ...", file=sys.stderr)
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise Unavailable(f"the server ended with exit code {server.returncode}; its message stands above")
        try:
            if httpx.get(f"{base}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise Unavailable(f"the server was not ready within {START_TIMEOUT_S} s")


def _ask(base: str, body: Mapping[str, Any]) -> dict[str, Any]:
    import httpx

    answer = httpx.post(f"{base}/recommend", json=body, timeout=30)
    if answer.status_code != 200:
        raise Unavailable(f"POST /recommend answered {answer.status_code}: {answer.text}")
    told: dict[str, Any] = answer.json()
    return told


def _how(name: str, ranked: Mapping[str, Any]) -> None:
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in ranked["timing_ms"].items())
    state = "degraded: " + ", ".join(ranked["degradation"]) if ranked["degraded"] else "not degraded"
    print(f"{name:>10}  ms: {stages}; {state}")


def _until_interrupted() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("\nStopping.", file=sys.stderr)
