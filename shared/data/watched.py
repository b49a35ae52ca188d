"""A large file reports how far it has been read, whoever reads it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shared.progress import Advance, progress

QUIET_MB = 64
_MB = 1 << 20


@contextmanager
def watched(path: Path, verb: str) -> Iterator[IO[bytes]]:
    """The bytes of `path`, with a progress bar from 64 MB on. `verb` says what is done: "unpack"."""
    megabytes = path.stat().st_size // _MB
    with path.open("rb") as file:
        if megabytes < QUIET_MB:
            yield file
            return
        with progress(f"{verb} {path.name}", megabytes, "MB") as advance:
            yield io.BufferedReader(_Counting(file, advance), _MB)


class _Counting(io.RawIOBase):
    def __init__(self, file: IO[bytes], advance: Advance) -> None:
        self._file, self._advance, self._reported = file, advance, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        block = self._file.read(len(buffer))
        buffer[: len(block)] = block
        now = self._file.tell() // _MB
        if now > self._reported:
            self._advance(now - self._reported)
            self._reported = now
        return len(block)
