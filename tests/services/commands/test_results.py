"""The results page: rankers of several methods over one retriever, and CoLLM's pairs beside the paper."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from services.commands import results, results_collm

DOCS = Path(__file__).parents[3] / "docs"


def committed(name: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads((DOCS / "results" / "ml-100k" / f"{name}.json").read_text())
    return made


def test_two_rankers_over_one_retriever_share_its_row(tmp_path: Path) -> None:
    (tmp_path / "ml-100k").mkdir()
    for name in ("seed-42", "recllm"):
        (tmp_path / "ml-100k" / f"{name}.json").write_text(json.dumps(committed(name)))
    page = results.page(tmp_path)
    assert page.count("| **LRURec**, seed 42 |") == 1
    assert page.count("steps, best at") == 1
    for row in ("RecLLM, smollm2-135m, 4 layers, alone", "LlamaRec, smollm2-135m, 24 layers, alone"):
        assert page.count(f"| {row} |") == 1
    assert "| cllm4rec blend | +" in page


def test_a_second_seed_of_the_retriever_has_a_row_and_the_mean(tmp_path: Path) -> None:
    (tmp_path / "ml-100k").mkdir()
    other = copy.deepcopy(committed("seed-42"))
    other["retriever"] |= {"seed": 43, "name": "lrurec@ffffffff"}
    for name, made in (("seed-42", committed("seed-42")), ("seed-43", other)):
        (tmp_path / "ml-100k" / f"{name}.json").write_text(json.dumps(made))
    page = results.page(tmp_path)
    assert "| **LRURec**, seed 43 |" in page
    assert "| **LRURec**, mean of 2 seeds |" in page


def pairs(**rows: float) -> dict[str, Any]:
    parts = {name: {part: {"auc": auc, "uauc": auc - 0.1} for part in ("all", "cold")} for name, auc in rows.items()}
    return {"protocol": "collm", "pairs": 7331, "seed": 42, "rows": parts}


def test_collms_pairs_stand_beside_the_papers_rows(tmp_path: Path) -> None:
    folder = tmp_path / results_collm.FOLDER
    folder.mkdir()
    fitted = {"mf": {"width": 256, "weight_decay": 0.01, "valid_auc": 0.67}}
    ranker = {"name": "collm@1", "config": {"behaviour": "din"}}
    for name, made in {
        "mf": pairs(mf=0.64) | {"fitted": fitted},
        "din": pairs(hybrid=0.74, **{"text only": 0.71}) | {"ranker": ranker},
        "text": pairs(**{"text only": 0.705}) | {"ranker": {"name": "tallrec@1", "config": {"behaviour": "mf"}}},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(made))
    page = results.page(tmp_path)
    assert "| MF | 0.6400 / 0.5400 |  | 0.6400 / 0.5400 | 0.6482 / 0.6361 |" in page
    assert "| CoLLM-DIN | 0.7400 / 0.6400 |" in page
    assert "| TALLRec | 0.7050 / 0.6050 |" in page
    assert "| SASRec |  |  |  | 0.7078 / 0.6884 |" in page
    assert "MF: width 256, weight decay 0.01" in page
