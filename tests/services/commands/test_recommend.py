"""`tandem recommend`: the same models as served, tested as they are there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ranker import backbone
from services.commands.recommend import Recommend, run
from shared.errors import GoldenMismatch
from shared.registry import Registry
from tests.ranker import tiny
from tests.services.releases import made


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return made.registry(tmp_path_factory.mktemp("registry"))


def asked(registry: Registry, language: Path | None = None) -> Recommend:
    release = registry.release("one")
    data, retriever, ranker = map(registry.place, (release.data, release.retriever, release.rankers[0]))
    return Recommend(
        data=data, retriever=retriever, ranker=ranker, user="u3", k=5, backbone=str(language) if language else None
    )


def test_it_lists_what_the_user_does_not_have(
    registry: Registry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "best_dtype", lambda device: torch.float32)
    run(asked(registry))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4", "5"]
    has = {f"i{(7 * 3 + step) % made.ITEMS}" for step in range(made.LENGTH)}
    assert not has & {line.split()[2] for line in lines}


def test_another_language_model_of_the_same_shape_is_noticed(registry: Registry, tmp_path: Path) -> None:
    tokenizer = tiny.bpe(tiny.corpus())
    torch.manual_seed(5)
    other = tiny.llama(len(tokenizer))
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    language = tiny.save(tmp_path / "other", tokenizer, other)
    with pytest.raises(GoldenMismatch):
        run(asked(registry, language))
