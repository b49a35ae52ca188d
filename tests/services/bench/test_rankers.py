"""The table of the rankers, over the tiny backbone."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from ranker import backbone
from ranker.registry import load
from services.bench import plots
from services.bench.rankers import AGAIN, FIRST, Answer, Question, Settings, counted, report_of, told
from shared.candidate import Candidate
from shared.errors import Unavailable
from shared.history import History
from tests.ranker import tiny
from tests.ranker.cllm4rec import made as cllm4rec
from tests.ranker.collm import made as collm

SETTINGS = Settings(data=Path(), retriever=Path(), rankers=(), users=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tokenizer = tiny.bpe([*tiny.corpus(), *["Answer: Yes", "Answer: No"] * 20])
    out = tmp_path_factory.mktemp("bench")
    folder = tiny.save(out / "tiny", tokenizer, tiny.llama(len(tokenizer)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        collm.trained(out / "collm", folder, text_prompts=8, mapping_prompts=8)
        cllm4rec.trained(out / "recllm", folder, content_first=8, pretrain=8, tune=8)
    return {name: out / name for name in ("collm", "recllm")}


def report() -> dict[str, object]:
    answers = [Answer(ms, 1, tokens) for ms, tokens in ((1.0, 10), (9.0, 30), (5.0, 20))]
    trials = {"collm": {FIRST: answers, AGAIN: [Answer(0.5, 0, 0)] * 3}}
    return report_of(SETTINGS, trials, {"collm": {"peak_mib": 700.0, "layers": 8}}, 800.0)


def test_each_ranker_has_its_median_and_the_mean_of_what_it_needs() -> None:
    one = report()["rankers"]["collm"]  # type: ignore[index]
    assert one[FIRST] == {"p50_ms": 5.0, "p90_ms": 9.0, "passes": 1.0, "tokens": 20.0}
    assert one[AGAIN] == {"p50_ms": 0.5, "p90_ms": 0.5, "passes": 0.0, "tokens": 0.0}


def test_the_report_is_json_and_can_be_drawn(tmp_path: Path) -> None:
    plots.rankers(json.loads(json.dumps(report())), tmp_path / "folder" / "rankers.png")
    assert (tmp_path / "folder" / "rankers.png").stat().st_size > 10_000


def test_what_goes_through_the_language_model_is_counted(folders: dict[str, Path]) -> None:
    """CoLLM packs 20 questions into one pass; RecLLM's prompt is shorter than these, and as long for 2 as for 20."""
    question = Question("u1", (1, 2, 3), tuple((item, 0.0) for item in range(11, 31)), ())
    found = {}
    for name, folder in folders.items():
        ranker = load(folder, tiny.DATA.catalog, device="cpu").ranker
        for count in (20, 2):
            candidates = [Candidate(item, score) for item, score in question.first[:count]]
            with counted() as seen:
                # Another history each time: what is known of one costs nothing.
                ranker.rank([History(question.history[count // 20 :], question.user_id)], [candidates])
            found[name, count] = list(seen)
    assert {passes for passes, _ in found.values()} == {1}
    assert found["collm", 20][1] > 4 * found["collm", 2][1]
    assert 0 <= found["recllm", 2][1] - found["recllm", 20][1] <= 1
    assert found["recllm", 20][1] < found["collm", 20][1] / 5


def test_outside_of_the_block_nothing_is_counted(folders: dict[str, Path]) -> None:
    with counted() as seen:
        pass
    ranker = load(folders["recllm"], tiny.DATA.catalog, device="cpu").ranker
    ranker.rank([History((1, 2), "u2")], [[Candidate(5, 0.0)]])
    assert seen == [0, 0]


def test_a_process_that_ends_is_named() -> None:
    here, there = multiprocessing.Pipe()
    there.close()
    with pytest.raises(Unavailable, match="the process of collm has ended"):
        told("collm", here)
