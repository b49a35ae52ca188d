"""The tiny backbones, saved once in Hugging Face layout and read back as any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ranker import backbone
from ranker.backbone import Backbone
from tests.ranker import tiny


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Models this small gain nothing by a second one, and wait for it where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some processors would choose bfloat16; a test means the same on all of them."""
    monkeypatch.setattr(backbone, "best_dtype", lambda device: torch.float32)


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny.bpe(tiny.corpus())
    return tiny.save(tmp_path_factory.mktemp("backbone") / "bpe", tokenizer, tiny.llama(len(tokenizer)))


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny.sentencepiece()
    model = tiny.llama(len(tokenizer), hidden=16)
    return tiny.save(tmp_path_factory.mktemp("backbone") / "sentencepiece", tokenizer, model)


@pytest.fixture(scope="session")
def bpe(bpe_folder: Path) -> Backbone:
    return backbone.load(str(bpe_folder), dtype=torch.float32)


@pytest.fixture(scope="session")
def sentencepiece(sentencepiece_folder: Path) -> Backbone:
    return backbone.load(str(sentencepiece_folder), dtype=torch.float32)


@pytest.fixture(params=["bpe", "sentencepiece"])
def base(request: pytest.FixtureRequest) -> Backbone:
    """Each tokenizer in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def artifact(bpe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ranker trained for a moment on `tiny.DATA`. Copy it before changing it."""
    out = tmp_path_factory.mktemp("ranker") / "llamarec"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        tiny.trained(out, bpe_folder)
    return out
