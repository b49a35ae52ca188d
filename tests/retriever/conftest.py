"""One tiny trained retriever for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.retriever.tiny import trained


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a retriever trained on `cycle()`. Copy it before changing it."""
    out = tmp_path_factory.mktemp("retriever") / "lrurec"
    trained(out)
    return out
