"""JSON lines on stderr, from our own code and from the libraries alike. Never titles; user ids only as hashes."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from contextvars import ContextVar
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor

LINE: ContextVar[dict[str, Any] | None] = ContextVar("tandem_request_line", default=None)
"""What the one line of the request that is being handled will say. One dict per request, so that its tasks share it."""


def configure(level: str) -> None:
    """Once per process, where it starts."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        _of_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(_bytes)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(number)


def note(**fields: Any) -> None:
    """Adds fields to the one line that the request being handled will leave; outside of one, does nothing."""
    line = LINE.get()
    if line is not None:
        line.update(fields)


def request_id() -> str | None:
    """Of the request that is being handled."""
    line = LINE.get()
    return line["request_id"] if line else None


def hashed(user_id: str | None, salt: str) -> str | None:
    """16 hex digits that stand for one user in the logs."""
    if user_id is None:
        return None
    key = hashlib.sha256(salt.encode()).digest()
    return hashlib.blake2b(user_id.encode(errors="replace"), key=key, digest_size=8).hexdigest()


def _of_request(logger: Any, method: str, event: EventDict) -> EventDict:
    line = LINE.get()
    if line is not None:
        event.setdefault("request_id", line["request_id"])
    return event


def _bytes(event: EventDict, **options: Any) -> bytes:
    try:
        return orjson.dumps(event, default=repr)
    except TypeError:  # half a surrogate pair, which UTF-8 cannot carry
        return json.dumps(event, default=repr).encode()
