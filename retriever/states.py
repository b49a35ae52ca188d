"""What a history has come to, kept under a digest of the history: a request after one more event is one step.

A key tells nothing but that a history was the same under the same weights. It holds for whoever has that history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from threading import Lock
from typing import Protocol

import numpy as np
from cachetools import LRUCache

BACK = 8
"""A state is looked for after the last item, and after up to so many fewer."""
OVERHEAD = 200
"""Bytes that Python needs for an entry beside its content."""
SHARED_FROM = 50
"""A shorter history is encoded anew (half a millisecond) sooner than another process is asked."""


@dataclass(frozen=True, slots=True)
class Found:
    """key: of the whole history.  state: of the history without its last `missing` items; None: of none of it."""

    key: bytes
    missing: int = 0
    state: bytes | None = None


class Shared(Protocol):
    """What several processes keep together. Where that fails there is nothing; no call raises."""

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    def write(self, key: bytes, state: bytes) -> None:
        """Some time later."""

    def watch(self, heard: Callable[[str], None]) -> None:
        """Who hears `unavailable`, when it does not answer."""

    def close(self) -> None: ...


class States:
    """The most recently used, within so many bytes. Any thread may ask.

    version: of the weights; other weights have other keys.  heard: how each history came to its state: known, advanced
    or whole.
    """

    def __init__(
        self,
        version: str,
        max_bytes: int,
        heard: Callable[[str], None] = lambda outcome: None,
        shared: Shared | None = None,
    ) -> None:
        self._version = version.encode()[:64]
        self._kept: LRUCache[bytes, bytes] = LRUCache(max_bytes, getsizeof=lambda state: len(state) + OVERHEAD)
        self._lock = Lock()
        self._shared = shared
        self.heard = heard

    def __len__(self) -> int:
        return len(self._kept)

    def keys(self, items: np.ndarray) -> list[bytes]:
        """Of the whole history, and of it without its last 1, 2, ... BACK items; never of an empty one."""
        content = np.ascontiguousarray(items, dtype="<i4").tobytes()
        stops = range(len(content), max(0, len(content) - 4 * (BACK + 1)), -4)
        return [blake2b(content[:stop], digest_size=16, key=self._version).digest() for stop in stops]

    def nearest(self, histories: Sequence[np.ndarray]) -> list[Found]:
        """The longest part of each that is kept. What is not here is asked for elsewhere, for all of them at once."""
        keys = [self.keys(items) for items in histories]
        found = [self._first(one, map(self._get, one)) for one in keys]
        if self._shared is not None:
            away = [n for n, one in enumerate(found) if one.state is None and len(histories[n]) >= SHARED_FROM]
            replies = iter(self._shared.read([key for n in away for key in keys[n]]) if away else ())
            for n in away:
                found[n] = self._first(keys[n], [next(replies) for _ in keys[n]])
                if (state := found[n].state) is not None:
                    self._put(keys[n][found[n].missing], state)
        return found

    def keep(self, key: bytes, state: bytes, items: int) -> None:
        """Of a history of so many items. The other processes hear of it where that saves them something."""
        self._put(key, state)
        if self._shared is not None and items >= SHARED_FROM:
            self._shared.write(key, state)

    def watch(self, heard: Callable[[str], None]) -> None:
        self.heard = heard
        if self._shared is not None:
            self._shared.watch(heard)

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()

    def _first(self, keys: Sequence[bytes], states: Iterable[bytes | None]) -> Found:
        for missing, state in enumerate(states):
            if state is not None:
                return Found(keys[0], missing, state)
        return Found(keys[0])

    def _get(self, key: bytes) -> bytes | None:
        with self._lock:
            kept: bytes | None = self._kept.get(key)
            return kept

    def _put(self, key: bytes, state: bytes) -> None:
        with self._lock:
            if len(state) + OVERHEAD <= self._kept.maxsize:
                self._kept[key] = state
