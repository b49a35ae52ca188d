"""What one user did, oldest first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class History:
    """One user's items as dense catalogue indices (1..n, never PAD), oldest first.

    `user_id` is None for an anonymous session; models that know users (CLLM4Rec, CoLLM) look it up.
    """

    items: tuple[int, ...]
    user_id: str | None = None

    def __len__(self) -> int:
        return len(self.items)

    def last(self, n: int) -> tuple[int, ...]:
        """The n most recent items, oldest first."""
        return self.items[-n:] if n > 0 else ()
