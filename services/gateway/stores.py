"""Where the gateway finds what a user did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import UnknownUser

if TYPE_CHECKING:
    from shared.data.prepared import Prepared


class NoHistories:
    """A gateway without a data folder knows nobody: callers send the history along."""

    async def get(self, user_id: str) -> tuple[str, ...] | None:
        return None


class MemoryHistories:
    """The users of a prepared data folder. Ids are made per request: 20 million strings would fill gigabytes."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared

    async def get(self, user_id: str) -> tuple[str, ...] | None:
        try:
            history = self._prepared.history(user_id)
        except UnknownUser:
            return None
        return tuple(self._prepared.catalog[index].id for index in history.items)


def open_histories(folder: Path) -> MemoryHistories:
    """Raises BadArtifact. Polars is imported here: a gateway without a data folder does without it."""
    from shared.data.prepared import load

    return MemoryHistories(load(folder))
