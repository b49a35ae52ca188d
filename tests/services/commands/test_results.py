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


def test_a_seed_trained_again_elsewhere_has_a_row_and_no_part_in_the_mean(tmp_path: Path) -> None:
    (tmp_path / "ml-100k").mkdir()
    alone, again, other = (copy.deepcopy(committed(name)) for name in ("seed-42", "recllm", "seed-42"))
    for key in ("ranker", "order_sensitivity"):
        del alone[key], other[key]
    again["retriever"]["name"], again["hardware"]["cpu"] = "lrurec@eeeeeeee", "AMD EPYC"
    again["rows"]["lrurec"] = dict.fromkeys(again["rows"]["lrurec"], 0.9)
    other["retriever"] |= {"seed": 43, "name": "lrurec@ffffffff"}
    for name, made in (("a-again", again), ("b-alone", alone), ("c-other", other)):
        (tmp_path / "ml-100k" / f"{name}.json").write_text(json.dumps(made))
    page = results.page(tmp_path)
    assert "| **LRURec**, seed 42 | 0.1368 |" in page
    assert "| **LRURec**, seed 42, again on AMD EPYC | 0.9000 |" in page
    assert "| **LRURec**, mean of 2 seeds | 0.1368 |" in page


def test_lists_of_another_library_say_how_they_were_made(tmp_path: Path) -> None:
    (tmp_path / "games").mkdir()
    report = committed("seed-42")
    for key in ("ranker", "order_sensitivity"):
        report.pop(key, None)
    made = {"width": 64, "window": 50, "dropout": 0.4, "seed": 42, "best_epoch": 24, "train_seconds": 600.0}
    made |= {"packages": {"rectools": "0.19.0"}}
    sampled = made | {"session": 20, "loss": "sampled_softmax", "negatives": 64}
    report["lists"] = {"sasrec": {"made": made}, "bert4rec": {"made": sampled}}
    for part in ("rows", "intervals"):
        report[part] |= dict.fromkeys(("sasrec", "bert4rec"), report[part]["popularity"])
    (tmp_path / "games" / "lists.json").write_text(json.dumps(report))
    page = results.page(tmp_path)
    assert "`sasrec`: RecTools 0.19.0, width 64, window 50, dropout 0.4, seed 42, best at epoch 24, 600 s" in page
    assert "window 20, dropout 0.4, sampled_softmax with 64 negatives, seed 42" in page
    assert "| bert4rec | 0.0520 |" in page


def pairs(**rows: float) -> dict[str, Any]:
    parts = {name: {part: {"auc": auc, "uauc": auc - 0.1} for part in ("all", "cold")} for name, auc in rows.items()}
    return {"protocol": "collm", "pairs": 7331, "seed": 42, "rows": parts}


def test_collms_pairs_stand_beside_the_papers_rows(tmp_path: Path) -> None:
    folder = tmp_path / results_collm.FOLDER
    folder.mkdir()
    fitted = {"mf": {"width": 256, "weight_decay": 0.01, "valid_auc": 0.67}}
    config = {"behaviour": "din", "backbone": "smollm2-135m", "layers": 12, "packed": True, "together": 16}
    curve = {"steps": {"mapping": {"curve": [[640, 0.61, 0.7], [1280, 0.63, 0.6]]}}, "train_seconds": 71.0}
    ranker = {"name": "collm@1", "config": config, "metrics": curve}
    text = ranker | {"config": config | {"together": 0}, "metrics": {"steps": {}, "train_seconds": 5.0}}
    machine = {"hardware": {"cpu": "AMD EPYC", "cores": 2, "gpu": None}}
    gain = {name: {"mean": 0.02, "interval": [-0.0123, 0.05]} for name in ("auc", "uauc")}
    drawn = pairs(hybrid=0.74, **{"text only": 0.71}) | {"gain": gain}
    drawn["rows"]["hybrid"]["all"] |= {"auc_95": [0.72, 0.76], "uauc_95": [0.61, 0.66]}
    for name, made in {
        "mf": pairs(mf=0.64, **{"item mean": 0.7}) | {"fitted": fitted},
        "din": drawn | {"ranker": ranker} | machine,
        "text": pairs(**{"text only": 0.705}) | {"ranker": text} | machine,
        "svdpp": pairs(svdpp=0.735),
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(made))
    page = results.page(tmp_path)
    assert "| MF | 0.6400 / 0.5400 |  |  | 0.6400 / 0.5400 | 0.6482 / 0.6361 |" in page
    assert "| CoLLM-DIN | 0.7400 / 0.6400 | 0.720 to 0.760 / 0.610 to 0.660 |" in page
    assert "| TALLRec | 0.7050 / 0.6050 |" in page
    assert "| SASRec |  |  |  |  | 0.7078 / 0.6884 |" in page
    assert "| SVD++ | 0.7350 / 0.6350 |  |  | 0.7350 / 0.6350 |  |" in page
    assert "CoLLM-SVD++" not in page
    assert "| the item's mean label, whoever asks | 0.7000 / 0.6000 |" in page
    assert "MF: width 256, weight decay 0.01" in page
    assert (
        "CoLLM-DIN: smollm2-135m, 12 layers, step mapping: validation AUC after so many prompts of up to 16 pairs "
        "0.6100 (640), 0.6300 (1,280); 71 s on 2 cores (AMD EPYC, no GPU). "
        "Over its collaborative model: AUC +0.0200, 95 % -0.0123 to +0.0500; UAUC +0.0200, " in page
    )


def test_llaras_slates_stand_beside_the_papers_rows(tmp_path: Path) -> None:
    folder = tmp_path / "llara-lastfm"
    folder.mkdir()
    share = {"value": 0.4, "low": 0.3, "high": 0.5}
    row = {"hit_ratio@1": share, "valid_ratio": share | {"value": 1.0}}
    for curriculum in ("curriculum", "direct"):
        config = {"behaviour": "sasrec", "backbone": "smollm2-135m", "curriculum": curriculum, "layers": 0}
        trained = {"curve": [[320, 0.1, 3.0], [640, 0.2, 2.0]], "train_seconds": 71.0}
        trained |= {"behaviour": {"weight_decay": 0.1}}
        made = {
            "protocol": "llara",
            "slates": 122,
            "rows": {"sequential model": row, "as served": row, "generated": row},
            "ranker": {"name": "llara@1", "config": config, "metrics": trained},
            "hardware": {"cpu": "AMD EPYC", "cores": 2, "gpu": None},
        }
        if curriculum == "direct":
            made |= {"note": "Of another version."}
            made |= {"rows": made["rows"] | {"blended": row}, "blend": {"weight": 0.3}}  # type: ignore[operator]
        (folder / f"{curriculum}.json").write_text(json.dumps(made))
    other = json.loads((folder / "direct.json").read_text())
    other["rows"]["sequential model"] = row | {"hit_ratio@1": share | {"value": 0.3}}
    other["ranker"]["metrics"]["behaviour"]["weight_decay"] = 0.01
    (folder / "other.json").write_text(json.dumps(other))
    both = results.page(tmp_path)
    for row in ("0.1, AMD EPYC | 0.4000 |", "0.01, AMD EPYC | 0.3000 |"):
        assert both.count(f"| SASRec, weight decay {row}") == 1
    (folder / "other.json").unlink()
    page = results.page(tmp_path)
    assert page.count("**, blended with SASRec (w 0.30) | 0.4000 |") == 1
    assert page.count("| SASRec | 0.4000 | 0.3000 to 0.5000 | 1.00 |") == 1
    assert "| SASRec (paper) | 0.2233 |  |  |" in page
    assert "| **LLaRA, SASRec, smollm2-135m, direct, 640 prompts**, generated | 0.4000 |" in page
    assert (
        "curriculum, 640 prompts: all layers; HitRatio@1 on validation against prompts seen 0.1000 (320), 0.2000 (640)"
        in page
    )


def test_cllm4recs_ablations_have_their_papers_names_and_its_sweep_a_picture(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "cllm4rec-ml"
    folder.mkdir(parents=True)
    whole = {"content": True, "reorder": True, "finetune": True, "lambda_c": 1.0}
    sizes = {"backbone": "smollm2-135m", "layers": 0, "split": "random", "batch": 8}
    kinds: list[dict[str, Any]] = [{}, {"lambda_c": 10.0}, {"content": False}, {"content": False, "finetune": False}]
    kinds += [{"reorder": False}, {"layers": 4, "content_batch": 2}]
    for number, kind in enumerate(kinds):
        row = {"recall@20": 0.1 + number / 100, "recall@40": 0.2, "ndcg@100": 0.3}
        config = whole | sizes | kind
        seen = {"content": 100 * config["content"], "pretrain": 400, "recllm": 50 * config["finetune"]}
        stages = {name: {"curve": [[1, 0.1, 2.0], [count, 0.2, 1.0]]} for name, count in seen.items() if count}
        made: dict[str, Any] = {
            "protocol": "cllm4rec",
            "users": 610,
            "rows": {"popularity": row, "recllm": row},
            "ranker": {"config": config, "metrics": {"train_seconds": 60.0, "stages": stages}},
            "hardware": {"cpu": "AMD EPYC", "cores": 2, "gpu": None},
        }
        if number in (0, 5):
            made["rows"]["multi-vae"] = {"recall@20": 0.15, "recall@40": 0.2, "ndcg@100": 0.3}
            made["multi-vae"] = {"beta": 0.2, "epochs": 40, "packages": {"cornac": "3.0.1"}}
        (folder / f"{number}.json").write_text(json.dumps(made))
    results.run(results.Results(source=tmp_path / "results", out=tmp_path / "results.md"))
    page = (tmp_path / "results.md").read_text()
    assert page.count("| Multi-VAE, cornac 3.0.1, beta 0.2, 40 epochs | 0.1500 | 0.2000 | 0.3000 |") == 1
    cost = "60 s, 2 cores (AMD EPYC, no GPU)"
    assert f"| **CLLM4Rec**, smollm2-135m, all layers | 0.1000 | 0.2000 | 0.3000 | 200, 300, 50 | {cost} |" in page
    for name in ("CLLM4Rec, lambda_c 10", "LLM-CF", "LLM-CF and LLM-PreRec", "LLM-FixOrd"):
        assert f"| **{name}**, " in page
    assert (
        f"| **LLM-CF and LLM-PreRec**, smollm2-135m, all layers | 0.1300 | 0.2000 | 0.3000 | 400, 0, 0 | {cost} |"
        in page
    )
    short = f"| **CLLM4Rec**, smollm2-135m, 4 layers | 0.1500 | 0.2000 | 0.3000 | 200, 150, 50 | {cost} |"
    assert 0 < page.index(short) < page.index("**CLLM4Rec**, smollm2-135m, all layers")
    assert "a tenth of each user's items held out" in page
    assert (folder / "lambda_c.png").read_bytes().startswith(b"\x89PNG")
    assert "results/cllm4rec-ml/lambda_c.png" in page
