"""What runs a stack: over small processes of its own, as another process, so that it can be killed itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.redis_server import free_port

LONG_S = 30
"""More than any step takes on a busy machine."""

SUPERVISED = """
import asyncio, json, sys
from services.stack.part import Part, answers
from services.stack.supervisor import Supervisor
parts = [
    Part(
        name=one["name"],
        command=tuple(one["command"]),
        environment=one.get("environment", {}),
        needs=tuple(one.get("needs", ())),
        probe=answers(one["probe"]) if "probe" in one else None,
        given=one.get("given", ""),
    )
    for one in json.load(open(sys.argv[1]))
]
async def run():
    await Supervisor(parts, 2.0, lambda name, line: print(f"{name}: {line}", flush=True), pause_s=0.1).run()
asyncio.run(run())
"""
SERVER = """
import http.server, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("mine", os.getpid(), child.pid, flush=True)
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""


class Stack:
    def __init__(self, folder: Path, *parts: dict[str, object]) -> None:
        self.log = folder / "log"
        (folder / "parts.json").write_text(json.dumps(parts))
        with self.log.open("wb") as log:
            command = [sys.executable, "-c", SUPERVISED, str(folder / "parts.json")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def said(self, pattern: str, times: int = 1) -> list[str]:
        """Waits until it has said that, so often."""
        wait_until(lambda: len(re.findall(pattern, self.log.read_text())) >= times, self.log)
        return re.findall(pattern, self.log.read_text())

    def processes(self, times: int = 1) -> list[int]:
        """Of the last life: the server, and the child that it left."""
        self.said(r"mine (\d+) (\d+)", times)
        last = re.findall(r"mine (\d+) (\d+)", self.log.read_text())[-1]
        return [int(number) for number in last]

    def ended(self) -> int:
        return self.process.wait(LONG_S)


def wait_until(what: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + LONG_S
    while not what():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.02)


def lives(pid: int) -> bool:
    """A zombie does not: nobody may be there to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def running(folder: Path, *parts: dict[str, object]) -> Iterator[Stack]:
    stack = Stack(folder, *parts)
    try:
        yield stack
    finally:
        stack.process.terminate()
        stack.ended()


def server(name: str = "server", **more: object) -> dict[str, object]:
    port = free_port()
    command = [sys.executable, "-c", SERVER, str(port)]
    return {"name": name, "command": command, "probe": f"http://127.0.0.1:{port}"} | more


def once(name: str, code: str, **more: object) -> dict[str, object]:
    return {"name": name, "command": [sys.executable, "-c", code]} | more


def test_a_part_waits_for_the_health_of_what_it_needs(tmp_path: Path) -> None:
    late = "import time; time.sleep(0.5); print('done', flush=True)"
    parts = (server("last", needs=["first", "middle"]), once("first", late), server("middle", needs=["first"]))
    with running(tmp_path, *parts) as stack:
        stack.said("stack: ready")
        order = re.findall(r"(\w+): (?:done|mine)", stack.log.read_text())
    assert order == ["first", "middle", "last"]


def test_what_is_killed_comes_back_and_leaves_no_child(tmp_path: Path) -> None:
    with running(tmp_path, server()) as stack:
        stack.said("stack: ready")
        first, child = stack.processes()
        os.kill(first, signal.SIGKILL)
        again, _ = stack.processes(times=2)
        assert again != first
        assert not lives(child)
        assert stack.said(r"server ended with (\S+); it starts again in (\S+) s") == [("-9", "0.1")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_stop_it_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path, server()) as stack:
        stack.said("stack: ready")
        processes = stack.processes()
        stack.process.send_signal(number)
        assert stack.ended() == 0
        assert not any(map(lives, processes))


def test_who_does_not_listen_is_killed(tmp_path: Path) -> None:
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SERVER}"
    port = free_port()
    part = {"name": "deaf", "command": [sys.executable, "-c", deaf, str(port)], "probe": f"http://127.0.0.1:{port}"}
    with running(tmp_path, part) as stack:
        stack.said("stack: ready")
        processes = stack.processes()
        stack.process.terminate()
        assert stack.ended() == 0
        assert not any(map(lives, processes))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal")
def test_killed_itself_it_takes_its_parts_along(tmp_path: Path) -> None:
    with running(tmp_path, server()) as stack:
        stack.said("stack: ready")
        process, child = stack.processes()
        stack.process.kill()
        wait_until(lambda: not lives(process), stack.log)
        os.kill(child, signal.SIGKILL)  # only those that it started itself


def test_a_one_shot_that_fails_ends_the_stack(tmp_path: Path) -> None:
    with running(tmp_path, once("first", "raise SystemExit(3)"), server(needs=["first"])) as stack:
        assert stack.ended() == 1
        assert "Unavailable: first ended with 3" in stack.log.read_text()
        assert "mine" not in stack.log.read_text()


def test_who_never_gets_healthy_ends_the_stack(tmp_path: Path) -> None:
    part = once("broken", "raise SystemExit(2)", probe="http://127.0.0.1:1")
    with running(tmp_path, part) as stack:
        assert stack.ended() == 1
        assert stack.said(r"starts again in (\S+) s") == ["0.1", "0.2", "0.4", "0.8"]
        assert "broken ended 5 times, at last with 2" in stack.log.read_text()


def test_output_is_told_line_by_line_and_input_is_given(tmp_path: Path) -> None:
    code = "import sys; print(sys.stdin.read().upper(), flush=True); sys.stderr.write('x' * 200_000)"
    with running(tmp_path, once("talks", code, given="two\nlines")) as stack:
        stack.said("stack: ready")
        stack.process.terminate()
        stack.ended()
        assert "talks: TWO\ntalks: LINES\n" in stack.log.read_text()
        assert "talks: " + "x" * 200_000 in stack.log.read_text()


def test_a_part_sees_no_other_environment_than_its_own(tmp_path: Path) -> None:
    code = "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"
    with running(tmp_path, once("shows", code, environment={"MINE": "1"})) as stack:
        assert stack.said(r"shows: (.*)") == ["['MINE']"]
