"""One history out of what a data folder, a user's events and a session's events say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from services.gateway.ports import Stored


def merged(base: Sequence[str] | None, stored: Sequence[Stored]) -> tuple[tuple[str, ...], frozenset[str]]:
    """The history, oldest first, and what else must not come again. `stored` in the order user, session.

    Items that come twice stay twice. An event that names both a user and a session is stored with both, though: each
    item of a later part takes its last occurrence out of the earlier ones, so that no event counts twice. What the
    data folder says stays whole, or is left out where the user was erased.
    """
    if base is None and len(stored) == 1:
        return stored[0].items, stored[0].seen
    items: list[str] = []
    for one in stored:
        items = _without_last(items, one.items) + list(one.items) if items else list(one.items)
    if base is not None and not any(one.erased for one in stored):
        items = [*base, *items]
    seen: frozenset[str] = frozenset()
    return tuple(items), seen.union(*(one.seen for one in stored))


def _without_last(items: Sequence[str], out: Sequence[str]) -> list[str]:
    left = Counter(out)
    kept: list[str] = []
    for item in reversed(items):
        if left[item]:
            left[item] -= 1
        else:
            kept.append(item)
    return kept[::-1]
