"""The deadline that an inner service inherits from its caller, as a FastAPI dependency."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header

from shared.deadline import HEADER, Deadline
from shared.errors import DeadlineExceeded
from shared.wire.base import MAX_TIMEOUT_MS


async def inherited(
    remaining_ms: Annotated[
        float, Header(alias=HEADER, ge=0, le=MAX_TIMEOUT_MS, description="What the caller has left.")
    ] = 10_000,
) -> Deadline:
    if remaining_ms < 1:
        raise DeadlineExceeded(f"{HEADER} says {remaining_ms:g}: the caller no longer waits")
    return Deadline.after_ms(remaining_ms)


Inherited = Annotated[Deadline, Depends(inherited)]
