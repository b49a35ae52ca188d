from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ranker import backbone
from shared.registry import Registry
from tests.services.releases import made


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Only to be read."""
    return made.registry(tmp_path_factory.mktemp("releases"))


@pytest.fixture
def registry(whole: Registry, tmp_path: Path) -> Registry:
    """A copy to be damaged."""
    shutil.copytree(whole.folder, tmp_path / "registry")
    return Registry(tmp_path / "registry")


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some processors would choose bfloat16; a test means the same on all of them."""
    monkeypatch.setattr(backbone, "best_dtype", lambda device: torch.float32)
