"""What a history has come to, kept under a digest of the history: a request after one more event is one step.

A key tells nothing but that a history was the same under the same weights. It holds for whoever has that history.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from threading import Lock
from typing import Literal

import numpy as np
from cachetools import LRUCache

BACK = 8
"""A state is looked for after the last item, and after up to so many fewer."""
OVERHEAD = 200
"""Bytes that Python needs for an entry beside its content."""
Outcome = Literal["known", "advanced", "whole"]


class States:
    """The most recently used, within so many bytes. Any thread may ask.

    version: of the weights; other weights have other keys.  heard: how each history came to its state.
    """

    def __init__(self, version: str, max_bytes: int, heard: Callable[[Outcome], None] = lambda outcome: None) -> None:
        self._version = version.encode()[:64]
        self._kept: LRUCache[bytes, bytes] = LRUCache(max_bytes, getsizeof=lambda state: len(state) + OVERHEAD)
        self._lock = Lock()
        self.heard = heard

    def __len__(self) -> int:
        return len(self._kept)

    def keys(self, items: np.ndarray) -> list[bytes]:
        """Of the whole history, and of it without its last 1, 2, ... BACK items; never of an empty one."""
        content = np.ascontiguousarray(items, dtype="<i4").tobytes()
        stops = range(len(content), max(0, len(content) - 4 * (BACK + 1)), -4)
        return [blake2b(content[:stop], digest_size=16, key=self._version).digest() for stop in stops]

    def get(self, key: bytes) -> bytes | None:
        with self._lock:
            kept: bytes | None = self._kept.get(key)
            return kept

    def put(self, key: bytes, state: bytes) -> None:
        with self._lock:
            if len(state) + OVERHEAD <= self._kept.maxsize:
                self._kept[key] = state

    def nearest(self, keys: Sequence[bytes]) -> tuple[int, bytes] | None:
        """How many items are missing to the history's end, and the state before them; None where none is kept."""
        for missing, key in enumerate(keys):
            if (state := self.get(key)) is not None:
                return missing, state
        return None
