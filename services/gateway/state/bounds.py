"""How much is kept, and for how long. The same in every store, so that they can be held to one contract."""

from __future__ import annotations

from dataclasses import dataclass

from shared.wire.base import MAX_HISTORY, MAX_SEEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    history: int = MAX_HISTORY
    """Interactions of one user or session, the latest ones. What falls out is seen."""
    seen: int = MAX_SEEN
    """Items beside the history, the latest ones."""
    event_ids: int = 4 * MAX_HISTORY
    """Events of one user or session that are known again, the last ones to arrive."""
    item_states: int = 100_000
    """Items of one tenant with a state of their own."""
    session_ttl_s: float = 24 * 3600
    """After its last event."""
    record_ttl_s: float = 7 * 24 * 3600
