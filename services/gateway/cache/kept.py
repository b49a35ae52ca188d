"""What lies in a cache: a value, when it was written, its two times to live; and the same as bytes."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from services.gateway.ports import Entry

MAGIC = b"TDC1"
"""The last character is the version of this form."""
HEAD = struct.Struct("<4sI")
"""Magic, CRC-32 of all that follows."""
TIMES = struct.Struct("<QII")
"""Milliseconds since 1970, fresh for and then stale for, in milliseconds."""
MAX_MS = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Kept:
    """written_at: in seconds, on the clock of the store that holds it."""

    value: bytes
    written_at: float
    fresh_s: float
    stale_s: float

    def entry(self, now: float) -> Entry | None:
        """None once both times are over. A clock that was set back makes nothing older than it is."""
        age_s = max(0.0, now - self.written_at)
        if age_s >= self.fresh_s + self.stale_s:
            return None
        return Entry(self.value, age_s, age_s < self.fresh_s)

    def encode(self) -> bytes:
        body = TIMES.pack(int(self.written_at * 1000), _ms(self.fresh_s), _ms(self.stale_s)) + self.value
        return HEAD.pack(MAGIC, zlib.crc32(body)) + body


def decode(raw: object) -> Kept | None:
    """None for whatever this version did not write, or not to its end."""
    if not isinstance(raw, bytes) or len(raw) < HEAD.size + TIMES.size:
        return None
    magic, checksum = HEAD.unpack_from(raw)
    if magic != MAGIC or checksum != zlib.crc32(memoryview(raw)[HEAD.size :]):
        return None
    written_ms, fresh_ms, stale_ms = TIMES.unpack_from(raw, HEAD.size)
    return Kept(raw[HEAD.size + TIMES.size :], written_ms / 1000, fresh_ms / 1000, stale_ms / 1000)


def _ms(seconds: float) -> int:
    return min(round(seconds * 1000), MAX_MS)
