"""`tandem train ranker` and `tandem evaluate` for the other methods, from the command line to the artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ranker import backbone
from services.cli import main
from shared.artifact import open_artifact
from tests.ranker import tiny
from tests.shared.data.test_papers import collm_folder, frame

SMALL = [
    "batch=4",
    "validate_every=8",
    "warmup=1",
    "width=8",
    "behaviour_epochs=2",
    "layers=0",
    "lora_first_layer=0",
    "title_tokens=8",
]


def settings(*more: str) -> list[str]:
    return [word for setting in (*SMALL, *more) for word in ("--set", setting)]


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "best_dtype", lambda device: torch.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = tiny.bpe([*tiny.corpus(), *["Answer: Yes", "Answer: No"] * 20])
    return str(tiny.save(tmp_path_factory.mktemp("model") / "tiny", tokenizer, tiny.llama(len(tokenizer))))


def test_collm_and_tallrec_on_the_papers_pairs(model: str, tmp_path: Path) -> None:
    data = str(collm_folder(tmp_path / "pairs"))
    common = ["--data", data, "--backbone", model, "--device", "cpu"]
    sizes = settings("text_prompts=8", "mapping_prompts=8", "validation_pairs=4")
    for method in ("tallrec", "collm"):
        assert main(["train", "ranker", "--method", method, "--out", str(tmp_path / method), *common, *sizes]) == 0
        assert open_artifact(tmp_path / method, "ranker").method == method
    told = tmp_path / "told.json"
    evaluate = ["evaluate", "--protocol", "collm", "--data", data, "--ranker", str(tmp_path / "collm")]
    assert main([*evaluate, "--device", "cpu", "--json", str(told)]) == 0
    assert set(json.loads(told.read_text())["rows"]) == {"text only", "hybrid", "collaborative model"}
    first = ["--set", f"tallrec={tmp_path / 'tallrec'}", "--set", "tune=mapping", "--out", str(tmp_path / "second")]
    assert main(["train", "ranker", "--method", "collm", *common, *sizes, *first]) == 0
    evaluate[-1] = str(tmp_path / "second")
    assert main([*evaluate, "--device", "cpu", "--json", str(told)]) == 0
    assert set(json.loads(told.read_text())["rows"]) == {"hybrid", "collaborative model"}


def test_the_collaborative_models_alone_on_the_papers_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ranker.collm import evaluate as protocol

    monkeypatch.setattr(protocol, "WIDTHS", dict.fromkeys(protocol.WIDTHS, 4))
    data, told = str(collm_folder(tmp_path / "pairs")), tmp_path / "told.json"
    evaluate = ["evaluate", "--protocol", "collm", "--data", data, "--json", str(told), "--baselines"]
    assert main([*evaluate, "mf", "din"]) == 0
    made = json.loads(told.read_text())
    assert set(made["rows"]) == {"item mean", "mf", "din"}
    assert {one["weight_decay"] for one in made["fitted"].values()} <= set(made["decays"])
    assert main([*evaluate, "als"]) == 2
    assert "'als' is no collaborative model" in capsys.readouterr().err


def test_llara_on_the_papers_rows(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import polars as pl

    data = tmp_path / "rows"
    data.mkdir()
    items = {"item_id": list(range(30)), "title": tiny.titles(30)}
    pl.DataFrame(items).write_parquet(data / "items.parquet")
    rows = [([(n + k) % 30 for k in range(5)], (n + 5) % 30) for n in range(30)]
    for split in ("train", "valid", "test"):
        frame(rows).write_parquet(data / f"{split}.parquet")
    sizes = settings("prompts=8", "validation_rows=4", "history=4", "hard=0", "behaviour=gru4rec")
    train = ["train", "ranker", "--method", "llara", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([*train, "--backbone", model, "--device", "cpu", *sizes]) == 0
    evaluate = ["evaluate", "--protocol", "llara", "--data", str(data), "--ranker", str(tmp_path / "out")]
    assert main([*evaluate, "--users", "6", "--device", "cpu"]) == 0
    assert "generated" in capsys.readouterr().out


def test_multi_vae_stands_beside_recllm_on_its_own_split(model: str, tmp_path: Path) -> None:
    data, told = tmp_path / "data", tmp_path / "told.json"
    events = [f"u{user},i{item},{n}" for user in range(12) for n, item in enumerate(range(user % 2, 20, 2))]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp", *events]))
    titles = [f"i{n},{title}" for n, title in enumerate(tiny.titles(20))]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *titles]))
    source = ["--source", str(tmp_path / "events.csv"), "--items", str(tmp_path / "items.csv")]
    assert main(["data", "prepare", "--dataset", "table", *source, "--out", str(data)]) == 0
    words = ("layers=0", "pretrain=8", "tune=8", "split=random", "batch=4", "validate_every=8", "warmup=1")
    sizes = [word for setting in words for word in ("--set", setting)]
    train = ["train", "ranker", "--method", "cllm4rec", "--data", str(data), "--out", str(tmp_path / "out")]
    assert main([*train, "--backbone", model, "--device", "cpu", *sizes]) == 0
    evaluate = ["evaluate", "--protocol", "cllm4rec", "--data", str(data), "--ranker", str(tmp_path / "out")]
    assert main([*evaluate, "--device", "cpu", "--baselines", "multi-vae", "--json", str(told)]) == 0
    made = json.loads(told.read_text())
    assert set(made["rows"]) == {"popularity", "recllm", "multi-vae"}
    assert made["multi-vae"]["packages"]["cornac"]
    assert main([*evaluate, "--device", "cpu", "--baselines", "als"]) == 2


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["train", "ranker", "--method", "llamarec"], "give --retriever"),
        (["train", "ranker", "--method", "collm"], "no such field"),
        (["evaluate", "--protocol", "llara"], "give --ranker"),
        (["evaluate"], "give --retriever"),
    ],
)
def test_what_is_missing_is_named(
    words: list[str], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--out", str(tmp_path / "out")] if words[0] == "train" else []
    more += ["--set", "nothing=1"] if "collm" in words else []
    assert main([*words, "--data", str(tmp_path), *more]) == 2
    assert fault in capsys.readouterr().err


def test_a_protocol_refuses_the_artifact_of_another_method(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(collm_folder(tmp_path / "pairs"))
    sizes = settings("text_prompts=4", "validation_pairs=4")
    train = ["train", "ranker", "--method", "tallrec", "--data", data, "--out", str(tmp_path / "out")]
    assert main([*train, "--backbone", model, "--device", "cpu", *sizes]) == 0
    assert main(["evaluate", "--protocol", "llara", "--data", data, "--ranker", str(tmp_path / "out")]) == 3
    assert "made by 'tallrec'" in capsys.readouterr().err
