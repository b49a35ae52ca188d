"""Asynchronous tests run on asyncio alone, which is what uvicorn runs us on. Logs are rendered, and go nowhere."""

import pytest
import structlog

structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
    logger_factory=structlog.ReturnLoggerFactory(),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
