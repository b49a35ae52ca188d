from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

WAIT_S = 10


async def gone(*things: weakref.ref[Any]) -> None:
    """A worker may be about to let go of what it did last."""
    async with asyncio.timeout(WAIT_S):
        while any(one() is not None for one in things):
            await asyncio.sleep(0.01)
            gc.collect()
