"""`tandem export embeddings`, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ranker import backbone
from ranker.cllm4rec.rank import RecLLMScorer
from ranker.registry import load
from services.cli import main
from services.commands.export import IDS, VECTORS
from shared.data import prepared
from tests.ranker import tiny
from tests.ranker.cllm4rec import made

ITEMS = 30


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A prepared table, and RecLLM trained on it."""
    out = tmp_path_factory.mktemp("export")
    events = [f"ann{u},{(u + 3 * t) % ITEMS},{t}" for u in range(12) for t in range(8)]
    (out / "events.csv").write_text("user,item,ts\n" + "\n".join(events) + "\n")
    titles = [f"{i},{title}" for i, title in enumerate(tiny.titles(ITEMS))]
    (out / "items.csv").write_text("item,title\n" + "\n".join(titles) + "\n")
    words = ["--source", str(out / "events.csv"), "--items", str(out / "items.csv"), "--user", "user", "--item", "item"]
    words += ["--time", "ts", "--min-user", "1", "--min-item", "1", "--out", str(out / "data")]
    assert main(["data", "prepare", "--dataset", "table", *words]) == 0
    tokenizer = tiny.bpe(tiny.corpus())
    folder = tiny.save(out / "tiny", tokenizer, tiny.llama(len(tokenizer)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        data = prepared.load(out / "data")
        made.trained(out / "recllm", folder, data, alone=True, content_first=8, pretrain=8, tune=8, precision="int8")
    return out / "data", out / "recllm"


def test_the_towers_give_recllms_scores(folders: tuple[Path, Path], tmp_path: Path) -> None:
    data, ranker = folders
    words = ["--data", str(data), "--ranker", str(ranker), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["export", "embeddings", *words, "--states"]) == 0
    vectors = load_file(tmp_path / "out" / VECTORS)
    ids = json.loads((tmp_path / "out" / IDS).read_text())
    known = prepared.load(data)
    assert ids == {"users": list(known.user_ids), "items": [item.id for item in known.catalog.items]}
    assert {name: len(rows) for name, rows in vectors.items()} == {"users": 12, "items": ITEMS, "states": 12}
    scorer = load(ranker, known.catalog, device="cpu").ranker.scorer  # type: ignore[attr-defined]
    assert isinstance(scorer, RecLLMScorer)
    [opinion] = scorer.score([known.history("ann3")], [[4, 9, 2]])
    row = ids["users"].index("ann3")
    np.testing.assert_allclose(vectors["states"][row] @ vectors["items"][[3, 8, 1]].T, opinion.logits_C, atol=1e-4)


def test_the_embeddings_alone_unless_states_are_asked_for(folders: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["--data", str(folders[0]), "--ranker", str(folders[1]), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["export", "embeddings", *words]) == 0
    vectors = load_file(tmp_path / "out" / VECTORS)
    assert set(vectors) == {"users", "items"}
    assert len(np.unique(vectors["users"], axis=0)) == 12


def test_a_folder_that_is_there_is_not_replaced(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(folders[0]), "--ranker", str(folders[1]), "--out", str(tmp_path)]
    assert main(["export", "embeddings", *words]) == 2
    assert "exists" in capsys.readouterr().err
