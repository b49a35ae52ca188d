"""Asynchronous tests run on asyncio alone, which is what uvicorn runs us on."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
