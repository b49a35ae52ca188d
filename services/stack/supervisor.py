"""Starts each part once what it needs is healthy, starts it again when it ends, and leaves nothing behind.

docs/docker.md says why none of the process managers on the package index does this.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from services.stack.part import Part
from shared.errors import Unavailable

PROBE_EVERY_S = 0.1
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 10.0
STEADY_S = 30.0
"""Who ran for so long has earned the short pause again."""
GIVE_UP = 5
"""Who ends so often in a row without having been healthy ends the stack."""
LAST_WORDS_S = 2.0
"""For output that is still on its way; who left the group of its part may hold the pipe for ever."""
CHUNK = 1 << 16
OWN = "stack"
"""The name under which the supervisor speaks itself."""

Say = Callable[[str, str], None]
"""A part's name, and a line of its output."""


@dataclass(slots=True)
class Running:
    process: Process
    telling: asyncio.Task[None]


class _Told(Exception):
    """Somebody said stop."""


class Supervisor:
    """`grace_s`: from SIGTERM to SIGKILL.  `pause_s`: before a new start; each later one waits twice that."""

    def __init__(self, parts: Sequence[Part], grace_s: float, say: Say, pause_s: float = FIRST_PAUSE_S) -> None:
        self._parts = parts
        self._grace_s = grace_s
        self._pause_s = pause_s
        self._say = say
        self._healthy = {part.name: asyncio.Event() for part in parts}
        self._running: dict[str, Running] = {}
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Until SIGINT, SIGTERM or SIGHUP; afterwards no process of any part is left. Raises Unavailable for a part
        that cannot be had."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        failed: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for part in self._parts:
                    group.create_task(self._keep(part))
                group.create_task(self._tell_when_ready())
                await self._told.wait()
                raise _Told
        except* _Told:
            self._say(OWN, "stopping")
        except* Unavailable as group_of_one:
            failed = group_of_one.exceptions[0]
        finally:
            await self._end_all()
        if failed is not None:
            raise failed

    def stop(self) -> None:
        """Told a second time, it kills."""
        if self._told.is_set():
            for one in self._running.values():
                _signal(one.process, signal.SIGKILL)
        self._told.set()

    async def _tell_when_ready(self) -> None:
        began = time.monotonic()
        for healthy in self._healthy.values():
            await healthy.wait()
        self._say(OWN, f"ready after {time.monotonic() - began:.1f} s")

    async def _keep(self, part: Part) -> None:
        """Whoever it needs is waited for once: later each comes and goes by itself, as with compose."""
        for name in part.needs:
            await self._healthy[name].wait()
        pause, in_vain = self._pause_s, 0
        while True:
            began = time.monotonic()
            was_healthy, code = await self._live(part)
            if part.probe is None:
                self._require_done(part, code)
                return
            in_vain = 0 if was_healthy else in_vain + 1
            if in_vain == GIVE_UP:
                raise Unavailable(f"{part.name} ended {GIVE_UP} times, at last with {code}; its output stands above")
            if time.monotonic() - began > STEADY_S:
                pause = self._pause_s
            self._say(OWN, f"{part.name} ended with {code}; it starts again in {pause:g} s")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_S)

    def _require_done(self, part: Part, code: int) -> None:
        if code != 0:
            raise Unavailable(f"{part.name} ended with {code}; its output stands above")
        self._healthy[part.name].set()

    async def _live(self, part: Part) -> tuple[bool, int]:
        """From its start to its end: whether it was healthy, and its exit code (below 0: the signal)."""
        process = await self._start(part)
        watching = asyncio.create_task(self._watch(part))
        try:
            code = await process.wait()
        finally:
            watching.cancel()
        was_healthy = self._healthy[part.name].is_set()
        self._healthy[part.name].clear()
        await self._end(part)
        return was_healthy, code

    async def _start(self, part: Part) -> Process:
        # A pipe of our own: with asyncio's, a process counts as running while any child of it holds the other end.
        output, its_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *_dies_with_us(),
                *part.command,
                env=dict(part.environment),
                stdin=PIPE if part.given else DEVNULL,
                stdout=its_end,
                stderr=STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            os.close(output)
            raise Unavailable(f"{part.name} cannot start: {error}") from None
        finally:
            os.close(its_end)
        telling = asyncio.create_task(self._tell(part.name, output))
        self._running[part.name] = Running(process, telling)
        if process.stdin is not None:
            process.stdin.write(part.given.encode())
            process.stdin.close()
        return process

    async def _tell(self, name: str, output: int) -> None:
        """Its output, line by line, to the last one."""
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(output, "rb"))
        rest = b""
        try:
            while chunk := await reader.read(CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._say(name, line.decode(errors="replace"))
            if rest:
                self._say(name, rest.decode(errors="replace"))
        finally:
            pipe.close()

    async def _watch(self, part: Part) -> None:
        if part.probe is None:
            return
        while not await part.probe():  # noqa: ASYNC110  what it waits for is in another process
            await asyncio.sleep(PROBE_EVERY_S)
        self._healthy[part.name].set()

    async def _end_all(self) -> None:
        """The last first: who is asked ends after who asks."""
        for part in reversed(self._parts):
            await self._end(part)

    async def _end(self, part: Part) -> None:
        """SIGTERM, then SIGKILL, to the process and all that it started."""
        one = self._running.get(part.name)
        if one is None:
            return
        _signal(one.process, signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(one.process.wait(), self._grace_s)
        _signal(one.process, signal.SIGKILL)
        await one.process.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(one.telling, LAST_WORDS_S)
        self._running.pop(part.name, None)


def _signal(process: Process, number: signal.Signals) -> None:
    """To its group, which is its own, and which outlives it where it left children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _dies_with_us() -> tuple[str, ...]:
    """The kernel sends SIGTERM to a part whose supervisor was killed. util-linux's setpriv asks it to."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()
