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
from typing import TYPE_CHECKING, Any, Final

from shared.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from shared.data.prepared import Prepared

DATASET: Final = "ml-100k"
CANDIDATES = 20
WITHOUT_A_SAY = (
    ": on validation users this language model added nothing to the retriever, so that the retriever's order\n"
    "stands. It was trained for minutes on two cores; on a GPU `tandem train ranker --recipe small` gives it more."
)
START_TIMEOUT_S = 180


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Prepare MovieLens-100K, train the retriever, serve it with the shipped ranker and ask for one user.

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
    registry: Path | None = None
    """Serve nothing: publish what was made into this registry, where it has no current release yet."""


def run(args: Demo) -> None:
    if args.registry:
        _publish(args.registry, args.home)
    else:
        _show(args)


def _publish(folder: Path, home: Path) -> None:
    """With the language model at hand as well, so that a service need not fetch it."""
    from shared.registry import CURRENT, Registry

    if (folder / CURRENT).exists():
        return
    from ranker.backbone import smollm2_folder
    from ranker.registry import SHIPPED
    from services.releases.publish import publish

    smollm2_folder()
    _prepare(home)
    _train(home)
    registry = Registry(folder)
    release = publish(registry, home / DATASET, home / "retriever", [SHIPPED / f"llamarec-{DATASET}"])
    registry.point(release.id)
    print(f"published {release.id} to {folder}", file=sys.stderr)


def _show(args: Demo) -> None:
    from ranker.registry import SHIPPED
    from shared.data.prepared import load

    _prepare(args.home)
    data = load(args.home / DATASET)
    history = data.history(args.user)
    _train(args.home)
    ranker = SHIPPED / f"llamarec-{DATASET}"
    with _serving(args, ranker) as base:
        titles = [data.catalog[i].title for i in history.items]
        print(f"\nUser {args.user} of MovieLens: {len(titles)} films, the latest ten, oldest first")
        for title in titles[-10:]:
            print(f"    {title}")
        retrieved = _ask(base, {"user_id": args.user, "limit": CANDIDATES, "ranker": "retrieval"})
        ranked = _ask(base, {"user_id": args.user, "limit": CANDIDATES, "ranker": "llamarec", "timeout_ms": 10_000})
        _side_by_side(data, retrieved, ranked)
        _how(ranked, json.loads((ranker / "manifest.json").read_text())["extra"]["blend"])
        body = json.dumps({"user_id": args.user, "limit": 10, "timeout_ms": 5000})
        print(f"\nThe same by hand:\n  curl -s {base}/recommend -H 'content-type: application/json' -d '{body}'")
        if not args.once:
            print(f"\nServing at {base} (its API: {base}/docs). Ctrl-C stops it.", flush=True)
            _until_interrupted()


def _prepare(home: Path) -> None:
    from services.commands import data

    if not (home / DATASET / "manifest.json").is_file():
        print("1. MovieLens-100K", file=sys.stderr)
        data.run(data.Prepare(dataset=DATASET, out=home / DATASET))


def _train(home: Path) -> None:
    from services.commands import train

    if not (home / "retriever" / "manifest.json").is_file():
        print("2. LRURec, the retriever: some five minutes on two cores, once", file=sys.stderr)
        resume = (home / "retriever.partial" / "run.json").is_file()
        train.run(train.Retriever(data=home / DATASET, out=home / "retriever", resume=resume))


@contextmanager
def _serving(args: Demo, ranker: Path) -> Iterator[str]:
    """`tandem serve all` as its own process, ready; stopped at the end."""
    base = f"http://{args.host}:{args.port}"
    _require_free(args.host, args.port)
    words = ["serve", "all", "--data", str(args.home / DATASET), "--retriever", str(args.home / "retriever")]
    words += ["--ranker", str(ranker), "--host", args.host, "--port", str(args.port)]
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


def _side_by_side(data: Prepared, retrieved: dict[str, Any], ranked: dict[str, Any]) -> None:
    """The 20 candidates in retriever order, and beside them the ranking with how far each item moved."""
    before = {item["item_id"]: item["rank"] for item in retrieved["items"]}
    print(f"\n    {'retrieved by ' + retrieved['model']['retriever']:<46}  ranked by {ranked['model']['ranker']}")
    for left, right in zip(retrieved["items"], ranked["items"], strict=True):
        moved = before[right["item_id"]] - right["rank"]
        arrow = f"{'up' if moved > 0 else 'down'} {abs(moved)}" if moved else "-"
        shown = (_title(data, left["item_id"]), _title(data, right["item_id"]))
        print(f"{left['rank']:>3} {shown[0]:<46}  {right['rank']:>3} {shown[1]:<42} {arrow}")


def _title(data: Prepared, item_id: str) -> str:
    title = data.catalog[data.catalog.index(item_id)].title
    return title if len(title) <= 42 else title[:41] + "…"


def _how(ranked: dict[str, Any], weight: float) -> None:
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in ranked["timing_ms"].items())
    state = "degraded: " + ", ".join(ranked["degradation"]) if ranked["degraded"] else "not degraded"
    print(f"\nms: {stages}; {state}")
    print(f"blend weight {weight:.2f}" + ("" if weight else WITHOUT_A_SAY))


def _until_interrupted() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("\nStopping.", file=sys.stderr)
