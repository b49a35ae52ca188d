"""Real service processes on free ports, with fakes for models, stopped and collected whatever the test does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

START_S = 120
STOP_S = 15


FAKES = (sys.executable, "-m", "tests.e2e.serve_fakes")


class Service:
    """`command` is what starts it; ` --port N` is added."""

    def __init__(
        self, name: str, folder: Path, port: int | None = None, command: Sequence[str] = (), **environment: str
    ) -> None:
        self.name, self.environment = name, environment
        self.command = command or (*FAKES, name)
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{name}-{self.port}.log"
        self._start()

    def _start(self) -> None:
        command = [*self.command, "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=os.environ | self.environment)

    def wait_ready(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(self.url + "/readyz", timeout=1).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{self.name} is not ready after {START_S} s: {self.log.read_text()}")

    def restart(self) -> None:
        """On the port it had."""
        self._start()
        self.wait_ready()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


@contextmanager
def running(*services: Service) -> Iterator[None]:
    try:
        for service in services:
            service.wait_ready()
        yield
    finally:
        for service in services:
            service.stop()


@contextmanager
def three(folder: Path, **environment: str) -> Iterator[tuple[Service, Service, Service]]:
    """Gateway, retrieval and ranking, wired over HTTP."""
    retrieval = Service("retrieval", folder, **environment)
    ranking = Service("ranking", folder, **environment)
    urls = {"TANDEM_RETRIEVAL_URL": retrieval.url, "TANDEM_RANKING_URL": ranking.url}
    with running(retrieval, ranking):
        gateway = Service("gateway", folder, **urls, **environment)
        with running(gateway):
            yield gateway, retrieval, ranking


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
