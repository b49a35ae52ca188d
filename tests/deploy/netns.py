"""Hosts on one machine: network namespaces on one bridge, each of which can be cut off as by a pulled cable."""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType

NET = "10.213.77"


def why_not() -> str | None:
    """Why there can be none here."""
    if shutil.which("ip") is None:
        return "needs iproute2"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    name = f"tdtry{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    _ip("netns", "delete", name)
    return None


class Network:
    """`hosts` get the addresses NET.2 and on; this process is NET.1."""

    def __init__(self, *hosts: str) -> None:
        self.address = {host: f"{NET}.{place}" for place, host in enumerate(hosts, start=2)}
        self._bridge = f"td{os.getpid()}"

    def __enter__(self) -> Network:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{NET}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for host, address in self.address.items():
            space, cable = self._space(host), self._cable(host)
            _ip("netns", "add", space)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", cable, "master", self._bridge, "up")
            _ip("-n", space, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "set", "eth0", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for host in self.address:
            _ip("netns", "delete", self._space(host))
        _ip("link", "delete", self._bridge)

    def on(self, host: str) -> tuple[str, ...]:
        """The words that run a command there."""
        return ("ip", "netns", "exec", self._space(host))

    def cut(self, host: str) -> None:
        """Nothing comes or goes, and nobody is told."""
        _ip("link", "set", self._cable(host), "down")

    def heal(self, host: str) -> None:
        _ip("link", "set", self._cable(host), "up")

    def _space(self, host: str) -> str:
        return f"{self._bridge}-{host}"

    def _cable(self, host: str) -> str:
        return f"{self._bridge}v{self.address[host].rsplit('.', 1)[1]}"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
