"""A tokenizer to which Yes and No are words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ranker import backbone
from ranker.backbone import Backbone
from tests.ranker import tiny


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny.bpe([*tiny.corpus(), *["Answer: Yes", "Answer: No"] * 20])
    return tiny.save(tmp_path_factory.mktemp("backbone") / "answers", tokenizer, tiny.llama(len(tokenizer)))


@pytest.fixture(scope="session")
def bpe(bpe_folder: Path) -> Backbone:
    return backbone.load(str(bpe_folder), dtype=torch.float32)
