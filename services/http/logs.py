"""JSON lines on stderr, from our own code and from the libraries alike. Never titles; user ids only as hashes."""

from __future__ import annotations

import hashlib
import logging
import sys

import structlog


def configure(level: str) -> None:
    """Once per process, where it starts."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    render = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(number)


def hashed(user_id: str | None, salt: str) -> str | None:
    """16 hex digits that stand for one user in the logs."""
    if user_id is None:
        return None
    key = hashlib.sha256(salt.encode()).digest()
    return hashlib.blake2b(user_id.encode(errors="replace"), key=key, digest_size=8).hexdigest()
