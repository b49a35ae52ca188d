"""JSON lines on stderr, from our own code and from the libraries alike. Never titles; user ids only as hashes."""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

BATCH_S = 0.05
MAX_LINES = 10_000
"""While a reader stalls, so many lines wait; more are lost, and counted."""
LINE: ContextVar[dict[str, Any] | None] = ContextVar("tandem_request_line", default=None)
"""What the one line of the request that is being handled will say. One dict per request, so that its tasks share it."""

log = structlog.get_logger()


def configure(level: str) -> None:
    """Once per process, where it starts."""
    global _lines
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
    _lines = Lines(sys.stderr.buffer) if number <= logging.INFO else None
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


class Lines:
    """Where the one line per request goes, at a third of structlog's time. In batches, by a thread: each write to a
    pipe may wake its reader, which on a busy machine costs more than the request, and a reader may stall."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lines: list[bytes] = []
        self._lost = 0
        self._due: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        atexit.register(self._last)

    def __call__(self, line: dict[str, Any]) -> None:
        if len(self._lines) >= MAX_LINES:
            self._lost += 1
            return
        self._lines.append(_bytes(line | {"event": "request", "level": "info", "timestamp": datetime.now(UTC)}))
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(BATCH_S, self._flush)

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        if self._writing is not None and not self._writing.done():
            self._due = loop.call_later(BATCH_S, self._flush)
            return
        self._due = None
        self._writing = loop.run_in_executor(None, self._write, self._take())

    def _take(self) -> list[bytes]:
        lines, self._lines = self._lines, []
        if self._lost:
            lines.append(_bytes({"event": "lines lost", "level": "warning", "lines": self._lost}))
            self._lost = 0
        return lines

    def _write(self, lines: list[bytes]) -> None:
        self._out.write(b"\n".join([*lines, b""]))
        self._out.flush()

    def _last(self) -> None:
        if self._lines:
            self._write(self._take())


_lines: Lines | None = None


def request(line: dict[str, Any]) -> None:
    """The one line of a request."""
    if _lines is not None:
        _lines(line)
    else:
        log.info("request", **line)


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
    return hashlib.blake2b(user_id.encode(errors="replace"), key=_key(salt), digest_size=8).hexdigest()


@lru_cache(maxsize=4)
def _key(salt: str) -> bytes:
    return hashlib.sha256(salt.encode()).digest()


def _of_request(logger: Any, method: str, event: EventDict) -> EventDict:
    line = LINE.get()
    if line is not None:
        event.setdefault("request_id", line["request_id"])
    return event


def _bytes(event: EventDict, **options: Any) -> bytes:
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_UTC_Z)
    except TypeError:  # half a surrogate pair, which UTF-8 cannot carry
        return json.dumps(event, default=repr).encode()
