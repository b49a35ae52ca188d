"""Where what is decided is kept: in Redis for all gateways (redis.py), in a file over a restart, or only in this
process."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from shared.artifact import write_text
from shared.errors import Unavailable


class RolloutStore(Protocol):
    async def read(self) -> bytes | None:
        """None where nothing was decided yet. Raises Unavailable."""
        ...

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        """Writes `new` where `old` still stands. Raises Unavailable, and then nobody knows."""
        ...


class MemoryStore:
    def __init__(self) -> None:
        self._kept: bytes | None = None

    async def read(self) -> bytes | None:
        return self._kept

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        if self._kept != old:
            return False
        self._kept = new
        return True


class FileStore:
    """Of one gateway: two that write at the same moment are not told apart."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def read(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"TANDEM_ROLLOUT_FILE cannot be read: {error.strerror}") from None

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        if await self.read() != old:
            return False
        try:
            write_text(self._file, new.decode())
        except OSError as error:
            raise Unavailable(f"TANDEM_ROLLOUT_FILE cannot be written: {error.strerror}") from None
        return True
