"""Builds the images without Docker and runs them: do the Dockerfiles give services that answer?

    sudo .venv/bin/python docker/images.py train retrieval ranking gateway --demo artifacts/demo

Each step of the Dockerfiles is done in a bare Debian (rootfs.py). Then each service starts as its own user, its root
read-only, all in a network of their own, with the command of its Dockerfile; its HEALTHCHECK must succeed. With all of
them, `train` publishes the demo's release, and the gateway must answer with a ranking.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rootfs
from rootfs import Image

Process = subprocess.Popen[bytes]
HERE = Path(__file__).parent
ONCE, SERVICES = "train", ("retrieval", "ranking", "gateway")
"""In the order in which they start."""
USER = "10001:10001"
HEALTHY_S = 300
STOP_S = 40
WRITES = "import pathlib, sys; pathlib.Path('/opt/tandem/x').touch()"
ASK = """
import json, urllib.request
body = json.dumps({"user_id": "1", "limit": 3, "timeout_ms": 20000}).encode()
asked = urllib.request.Request("http://127.0.0.1:8000/recommend", body, {"content-type": "application/json"})
print(urllib.request.urlopen(asked, timeout=30).read().decode())
"""


def main() -> None:
    options = _options()
    rootfs.in_own_namespace()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _check(work, options)
    print(f"{', '.join(options.images)}: built, ran and answered")


def _check(work: Path, options: argparse.Namespace) -> None:
    images = {}
    for name in (name for name in (ONCE, *SERVICES) if name in options.images):
        images[name] = rootfs.build(HERE / f"{name}.Dockerfile", work)
    volume = _volume(work, options)
    settings = {"TANDEM_INTERNAL_SECRET": secrets.token_hex(32), "TANDEM_ALLOW_OPEN": "true"}
    mounts = {"models": volume}
    if images.keys() == {"gateway"}:
        mounts["popular.json"] = _popular(work)
        settings["TANDEM_POPULARITY_FILE"] = "/popular.json"
    with _network() as network:
        if once := images.pop(ONCE, None):
            _train(once, network, volume)
        _try(images, network, mounts, settings)


def _train(image: Image, network: list[str], volume: Path) -> None:
    """With nothing to download from: the data and the language model are there."""
    rootfs.freeze(image, {}, {"models": volume})
    command = [*network, *rootfs.words(image, [*image.entrypoint, *image.command])]
    if subprocess.run(command, check=False).returncode or not (volume / "current").exists():
        sys.exit("train published nothing")


def _try(images: dict[str, Image], network: list[str], mounts: dict[str, Path], settings: dict[str, str]) -> None:
    with _running(images, network, mounts, settings) as processes:
        for name, image in images.items():
            _require_healthy(name, image, network, processes[name])
            _require_least_rights(name, image, network)
        if "gateway" in images:
            _require_answer(images["gateway"], network, whole=len(images) == len(SERVICES))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", choices=(ONCE, *SERVICES))
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--demo", type=Path, help="what `tandem demo` has made, for `train` to publish")
    given.add_argument("--registry", type=Path, help="what is published already")
    cache = Path(os.environ.get("TANDEM_CACHE") or Path.home() / ".cache" / "tandem")
    parser.add_argument("--cache", type=Path, default=cache, help="Tandem's cache with the language model, where it is")
    parser.add_argument("--work", type=Path, default=Path("/var/tmp/tandem-images"), help="5 GB; kept")  # noqa: S108
    return parser.parse_args()


def _volume(work: Path, options: argparse.Namespace) -> Path:
    """What is at /models, owned by the user of the images."""
    volume = work / "models"
    rootfs.remove(volume)
    if options.registry:
        _copy(options.registry, volume)
    else:
        volume.mkdir()
        _copy(options.demo, volume / "demo")
    if (options.cache / "models").is_dir():
        (volume / "cache").mkdir()
        _copy(options.cache / "models", volume / "cache" / "models")
    subprocess.run(["chown", "--recursive", USER, str(volume)], check=True)
    return volume


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--recursive", "--dereference", str(source), str(target)], check=True)


def _popular(work: Path) -> Path:
    """A gateway's list of its last life: alone it can answer with nothing else."""
    items = [{"item_id": str(place), "score": -float(place)} for place in range(1, 51)]
    path = work / "popular.json"
    told = {"items": items, "source": "popularity", "missing_ids": [], "elapsed_ms": 0.0}
    path.write_text(json.dumps(told | {"model": "popularity@0", "catalog": "0" * 12}))
    return path


@contextmanager
def _network() -> Iterator[list[str]]:
    """A network with a loopback and nothing else; the words that run a command in it."""
    name = f"tandem-images-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextmanager
def _running(
    images: dict[str, Image], network: list[str], mounts: dict[str, Path], settings: dict[str, str]
) -> Iterator[dict[str, Process]]:
    processes: dict[str, Process] = {}
    try:
        for name, image in images.items():
            rootfs.freeze(image, mounts)
            command = rootfs.words(image, [*image.entrypoint, *image.command], **settings)
            processes[name] = subprocess.Popen([*network, *command])
        yield processes
        ended = {name: process.poll() for name, process in processes.items()}
        if any(code is not None for code in ended.values()):
            sys.exit(f"a service ended by itself: {ended}")
    finally:
        for process in reversed(processes.values()):
            process.terminate()
        codes = {name: process.wait(STOP_S) for name, process in processes.items()}
    if set(codes.values()) - {0}:
        sys.exit(f"told to stop, they ended with {codes}")


def _inside(image: Image, network: list[str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*network, *rootfs.words(image, command)], capture_output=True, text=True, check=False)


def _require_healthy(name: str, image: Image, network: list[str], process: Process) -> None:
    """By the image's own HEALTHCHECK."""
    assert image.healthcheck is not None, f"{name} has no HEALTHCHECK"
    began = time.monotonic()
    while (checked := _inside(image, network, *image.healthcheck)).returncode:
        if process.poll() is not None or time.monotonic() - began > HEALTHY_S:
            sys.exit(f"{name} is not healthy after {HEALTHY_S} s: {checked.stderr.splitlines()[-1:]}")
        time.sleep(0.5)
    print(f"{name}: healthy after {time.monotonic() - began:.0f} s", flush=True)


def _require_least_rights(name: str, image: Image, network: list[str]) -> None:
    user = _inside(image, network, "id", "-u").stdout.strip()
    written = _inside(image, network, "python3", "-c", WRITES)
    if user != "10001" or "Read-only file system" not in written.stderr:
        sys.exit(f"{name} runs as user {user}, and writing to its root gave: {written.stderr or 'no error'}")
    for tool in ("gcc", "pip", "make"):
        if _inside(image, network, "sh", "-c", f"command -v {tool}").returncode == 0:
            sys.exit(f"{name} holds {tool}, which is for building")


def _require_answer(image: Image, network: list[str], *, whole: bool) -> None:
    asked = _inside(image, network, "python3", "-c", ASK)
    if asked.returncode:
        sys.exit(f"POST /recommend: {asked.stderr}")
    answer = json.loads(asked.stdout)
    rung, wanted = answer["rung"], "ranker" if whole else "static"
    if rung != wanted or len(answer["items"]) != 3:
        sys.exit(f"POST /recommend answered from the rung {rung!r}, expected was {wanted!r}: {answer}")
    print(f"gateway: answered from the rung {rung!r}", flush=True)


if __name__ == "__main__":
    main()
