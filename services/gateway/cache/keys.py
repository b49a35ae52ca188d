"""Cache keys: everything that an answer depends on, as one digest behind a readable prefix.

A deploy that changes any of it finds an empty cache instead of the last version's answers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Literal, TypeAlias, Union
from urllib.parse import quote

SCHEMA = "td2"
"""Raised with the form of what lies under a key."""
DIGEST_BYTES = 20

Kind = Literal["ranking", "explained", "retrieval", "last", "vector", "projected"]
"""A whole ranking, one with its reasons, the candidates, a user's latest ranking whatever the history was then,
RecLLM's user vector, CoLLM's projected embedding."""

Part: TypeAlias = Union[int, str, bytes, "tuple[Part, ...]", None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """Stands for candidates that are not retrieved yet: the question that would bring them."""

    retriever: str
    index: str
    categories: frozenset[str] = frozenset()
    k: int

    def question(self) -> Part:
        return self.retriever, self.index, tuple(sorted(self.categories)), self.k


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """release: what is kept for one is never read for another, even where both have the same models.
    history and given: `digest` of the ids, given those that the caller wants ranked.
    ranker, labels, template: what the artifact says of itself.
    user_id: for models that know users, and for those alone: others share the answers of equal histories.
    carries: what stands beside each item."""

    tenant: str
    kind: Kind
    release: str = ""
    history: bytes
    candidates: bytes | Retrieved | None = None
    given: bytes | None = None
    ranker: str = ""
    labels: str = ""
    template: str = ""
    user_id: str | None = None
    carries: tuple[Literal["metadata", "vectors"], ...] = ()


def cache_key(parts: Parts) -> str:
    """`td2:<tenant>:cache:<kind>:<digest>`, or for one user `user_prefix` and the same; equal for equal parts in every
    process."""
    candidates = parts.candidates
    head, asked, middle, tail = _frame(
        parts.tenant,
        parts.kind,
        parts.release,
        candidates if isinstance(candidates, Retrieved) else None,
        parts.ranker,
        parts.labels,
        parts.template,
        parts.carries,
    )
    if isinstance(candidates, bytes):
        asked = _encode(candidates)
    body = b"".join((head, _encode(parts.history), asked, middle, _encode(parts.user_id), _encode(parts.given), tail))
    found = blake2b(_tagged(b"t", body), digest_size=DIGEST_BYTES).hexdigest()
    if parts.user_id is None:
        return f"{_prefix(parts.tenant)}{parts.kind}:{found}"
    return f"{user_prefix(parts.tenant, parts.user_id)}{parts.kind}:{found}"


def user_prefix(tenant: str, user_id: str) -> str:
    """All that is cached for one user begins so: an erasure finds it by that."""
    return f"{_prefix(tenant)}user:{blake2b(_encode(user_id), digest_size=DIGEST_BYTES).hexdigest()}:"


def digest(ids: Sequence[str]) -> bytes:
    """Of ids in their order. No loop in Python: a history has a thousand of them."""
    lengths = struct.pack(f"<{len(ids) + 1}I", len(ids), *map(len, ids))
    return blake2b(lengths + "".join(ids).encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


@lru_cache(maxsize=1024)
def _frame(
    tenant: str,
    kind: Kind,
    release: str,
    candidates: Retrieved | None,
    ranker: str,
    labels: str,
    template: str,
    carries: tuple[str, ...],
) -> tuple[bytes, bytes, bytes, bytes]:
    """What many keys have in common, encoded once: what stands before the history, the candidates, what stands between
    them and the user, and what stands at the end."""
    asked = candidates.question() if candidates else None
    # The history that follows is of another type, so that nothing takes the place of a release that is not there.
    head = (tenant, kind, release) if release else (tenant, kind)
    middle = b"".join(map(_encode, (ranker, labels, template)))
    return b"".join(map(_encode, head)), _encode(asked), middle, _encode(carries)


@lru_cache(maxsize=4096)
def _prefix(tenant: str) -> str:
    return f"{SCHEMA}:{quote(tenant, safe='', errors='surrogatepass')}:cache:"


def _encode(part: Part) -> bytes:
    """Type, length, content: no two parts have one encoding, and none is the beginning of another."""
    match part:
        case None:
            tag, body = b"n", b""
        case int():
            tag, body = b"i", b"%d" % part
        case str():
            tag, body = b"s", part.encode("utf-8", "surrogatepass")
        case bytes():
            tag, body = b"b", part
        case tuple():
            tag, body = b"t", b"".join(map(_encode, part))
    return _tagged(tag, body)


def _tagged(tag: bytes, body: bytes) -> bytes:
    return tag + len(body).to_bytes(8, "big") + body
