"""Keys and values of what prompts begin with, kept in blocks of 16 tokens: the instruction, a user's history.

A block is known by the digest of all tokens up to its end, vectors in their places included, so that equal digests mean
equal keys and values. Bounded in bytes; the block that was longest not asked for goes first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache
from torch import Tensor

from ranker.engines.protocol import Prompt, Spliced

BLOCK = 16


@dataclass(slots=True)
class Reuse:
    """Tokens of prompts since the start: computed, or taken from the cache or from another prompt of the same call."""

    computed: int = 0
    reused: int = 0


class Prefixes:
    """One for each set of weights."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._blocks: LRUCache[bytes, Tensor] = LRUCache(
            maxsize=max(max_bytes, 1), getsizeof=lambda block: block.nbytes
        )

    @property
    def held(self) -> int:
        """Bytes."""
        return int(self._blocks.currsize)

    def find(self, digests: Sequence[bytes]) -> list[Tensor]:
        """As many leading blocks as are known, each L x 2 x BLOCK x kv heads x h."""
        found: list[Tensor] = []
        for digest in digests:
            block = self._blocks.get(digest)
            if block is None:
                break
            found.append(block)
        self._touch(digests[: len(found)])
        return found

    def put(self, digests: Sequence[bytes], states_L2PKh: Tensor, first: int) -> None:
        """states_L2PKh: from block `first` on. The first blocks are the last to go: without them the rest is lost."""
        for number in reversed(range(first, len(digests))):
            start = (number - first) * BLOCK
            block = states_L2PKh[:, :, start : start + BLOCK].clone()
            if block.nbytes <= self._blocks.maxsize:
                self._blocks[digests[number]] = block
        self._touch(digests[:first])

    def _touch(self, digests: Sequence[bytes]) -> None:
        """The first block as the latest used."""
        for digest in reversed(digests):
            self._blocks.get(digest)


def digests(prompt: Prompt, tokens: int) -> list[bytes]:
    """Of the whole blocks among the first `tokens`."""
    blocks = min(tokens, len(prompt)) // BLOCK
    ids = np.asarray(prompt.ids if isinstance(prompt, Spliced) else prompt, dtype=np.int64)
    chain, before = [], b""
    for number in range(blocks):
        start, end = number * BLOCK, (number + 1) * BLOCK
        told = hashlib.blake2b(before + ids[start:end].tobytes(), digest_size=16)
        if isinstance(prompt, Spliced):
            inside = [n for n, place in enumerate(prompt.places) if start <= place < end]
            told.update(np.asarray([prompt.places[n] for n in inside], dtype=np.int64).tobytes())
            told.update(np.ascontiguousarray(prompt.rows_ND[inside], dtype=np.float32).tobytes())
        before = told.digest()
        chain.append(before)
    return chain
