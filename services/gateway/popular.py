"""The last popularity list, kept in the gateway so that it can answer while retrieval is down; also after a restart."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog
from pydantic import ValidationError

from services.gateway.ports import RetrievalPort
from services.gateway.ranked import RankedList
from shared.artifact import write_text
from shared.deadline import Deadline
from shared.errors import BadInput
from shared.wire.base import Rung
from shared.wire.inner import RetrieveAnswer

KEPT = 2_000
"""More than the largest answer, so that there is something left after the exclusions."""
FETCH_MS = 2_000

log = structlog.get_logger()


class Popular:
    """`file` holds the list between two lives of the gateway; `static` is what stood there at the start."""

    def __init__(self, retrieval: RetrievalPort, file: Path | None = None) -> None:
        self._retrieval = retrieval
        self._file = file
        self.latest: RetrieveAnswer | None = None
        self.static = _read(file) if file else None
        self._list: RankedList | None = None

    async def refresh(self, keep: bool = True) -> bool:
        """Whether there is a fresh list; the old one stays where there is none. The file is only for those who `keep`:
        one release's, where there are several."""
        try:
            async with asyncio.timeout(FETCH_MS / 1000):
                self.latest = await self._retrieval.popular(KEPT, Deadline.after_ms(FETCH_MS))
        except Exception as error:  # whatever it was, the loop must go on
            log.warning("popularity not refreshed", error=type(error).__name__)
            return False
        if keep:
            self._keep(self.latest)
        return True

    def list(self) -> RankedList | None:
        """The better of the two; put in order once."""
        found = self.latest or self.static
        if found is not None and (self._list is None or self._list.found is not found):
            rung: Rung = "popularity" if self.latest else "static"
            self._list = RankedList(found=found, rung=rung, asked=len(found.items))
        return self._list

    def why_not_ready(self) -> str | None:
        """The gateway is ready once it can answer whatever breaks."""
        if self.latest or self.static:
            return None
        return "the retrieval service has not answered since this gateway started"

    def _keep(self, list_: RetrieveAnswer) -> None:
        if self._file is None or list_ == self.static:
            return
        try:
            write_text(self._file, list_.model_dump_json())
        except OSError as error:
            log.warning("popularity not kept", error=type(error).__name__, errno=os.strerror(error.errno or 0))
        else:
            self.static = list_


def _read(file: Path) -> RetrieveAnswer | None:
    """None where there is no file yet. Raises BadInput for one that holds something else."""
    try:
        return RetrieveAnswer.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        fault = f"{error.error_count()} faults" if isinstance(error, ValidationError) else error.strerror
        raise BadInput(f"{file} is no popularity list ({fault}). Remove it; the gateway writes it anew.") from None
