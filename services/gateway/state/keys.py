"""The names of the keys in Redis.

Every name begins with the version of this schema: a process of another one never meets these values. Tenants and ids
are percent-encoded, which leaves no colon and no brace in them: no id can reach into another's name or another kind.
What stands in braces is what a Redis cluster takes the slot from: one for all keys of a user, one for a tenant's own.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from services.gateway.ports import Who

SCHEMA = "tandem:1"
SAFE = re.compile(r"[A-Za-z0-9_.~-]*")
"""What percent-encoding leaves as it is; to know that is faster than to do it."""
per_tenant = lru_cache(maxsize=1_000)


class OwnerKeys(NamedTuple):
    """history: sorted by timestamp, arrival and item with a newline between them.  seen: items by timestamp.  events:
    digests by arrival, the last one of which is the version.  sessions: of a user's events, by the time of the last."""

    history: str
    seen: str
    events: str
    sessions: str


def of_owner(tenant: str, who: Who) -> OwnerKeys:
    stem = f"{SCHEMA}:{who.kind}:{{{_quoted(tenant)}:{_quoted(who.id)}}}"
    return OwnerKeys(f"{stem}:history", f"{stem}:seen", f"{stem}:events", f"{stem}:sessions")


@per_tenant
def erased(tenant: str) -> str:
    """A hash: tombstone to the version that the user had."""
    return f"{SCHEMA}:erased:{{{_quoted(tenant)}:}}"


@per_tenant
def items(tenant: str) -> str:
    """A hash: item id to its state; the version is under the empty id, which no item has."""
    return f"{SCHEMA}:items:{{{_quoted(tenant)}:}}"


@per_tenant
def changed(tenant: str) -> str:
    """Item ids by the version that last changed them."""
    return f"{SCHEMA}:changed:{{{_quoted(tenant)}:}}"


def record(tenant: str, recommendation_id: str) -> str:
    return f"{SCHEMA}:record:{_quoted(tenant)}:{_quoted(recommendation_id)}"


def _quoted(text: str) -> str:
    return text if SAFE.fullmatch(text) else quote(text, safe="")
