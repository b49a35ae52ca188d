"""The evaluation that every table comes from, on tiny models: pairs, bands, what a ranker's opinion is worth."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranker.registry import load as load_ranker
from retriever.recipes import TrainConfig
from retriever.retrieve import LoadedRetriever
from retriever.retrieve import load as load_retriever
from retriever.train import train as train_retriever
from services import plots
from services.commands import results
from services.evaluation import Retrieved, against, load_both, popularity_third, reliability, report, rerank, retrieve
from shared.data.prepared import Prepared
from shared.data.split import cases, spaced
from shared.errors import BadInput
from shared.history import History
from tests.ranker import tiny
from tests.ranker.cllm4rec import made as cllm4rec

SMALL = TrainConfig(width=16, state=16, blocks=1, dropout=0.0, attention_dropout=0.0, batch=8, window=8, epochs=6)


@pytest.fixture(scope="module")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny.bpe(tiny.corpus())
    return tiny.save(tmp_path_factory.mktemp("bpe"), tokenizer, tiny.llama(len(tokenizer)))


@pytest.fixture(scope="module")
def data() -> Prepared:
    return tiny.DATA


@pytest.fixture(scope="module")
def retriever(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> LoadedRetriever:
    folder = tmp_path_factory.mktemp("retriever") / "artifact"
    train_retriever(data, SMALL, folder)
    return load_retriever(folder, data.catalog)


@pytest.fixture(scope="module")
def made(
    data: Prepared, retriever: LoadedRetriever, bpe_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ranker") / "artifact"
    tiny.trained(folder, bpe_folder)
    return report(data, retriever, load_ranker(folder, data.catalog), seed=1, order_users=4, baselines=("item-knn",))


def test_lists_are_measured_as_who_made_them(data: Prepared, retriever: LoadedRetriever) -> None:
    """The retriever's own lists, without its exclusions: the window is taken out of them."""
    asked = list(cases(data, "test"))
    found = retriever.retriever.retrieve([History(tuple(case.history.tolist())) for case in asked], len(data.catalog))
    lists = {case.user: np.array([c.item for c in row]) for case, row in zip(asked, found, strict=True)}
    made = report(data, retriever, None, seed=1, lists={"theirs": lists, "nobody's": {}})
    assert made["rows"]["theirs"] == made["rows"]["lrurec"]
    assert set(made["rows"]["nobody's"].values()) == {0.0}


def test_a_report_is_plain_json_and_the_same_every_time(
    made: dict[str, Any], data: Prepared, retriever: LoadedRetriever
) -> None:
    assert json.loads(json.dumps(made)) == made
    once, again = (report(data, retriever, None, seed=1) for _ in range(2))
    assert once == again


def test_another_method_is_measured_by_the_same_protocol(
    data: Prepared, retriever: LoadedRetriever, bpe_folder: Path, tmp_path: Path
) -> None:
    cllm4rec.trained(tmp_path / "out", bpe_folder)
    made = report(data, retriever, load_ranker(tmp_path / "out", data.catalog), seed=1)
    assert set(made["rows"]) == {"popularity", "lrurec", "cllm4rec alone", "cllm4rec blend"}
    assert set(made["against_retriever"]) == {"cllm4rec alone", "cllm4rec blend"}
    assert "order_sensitivity" not in made
    assert made["rows"]["cllm4rec alone"]["recall@20"] == made["rows"]["lrurec"]["recall@20"]


def test_a_teacher_of_titles_has_rows_of_its_own(
    data: Prepared, retriever: LoadedRetriever, bpe_folder: Path, tmp_path: Path
) -> None:
    tiny.trained(tmp_path / "out", bpe_folder, alike=0.5)
    made = report(data, retriever, load_ranker(tmp_path / "out", data.catalog), seed=1, order_users=2)
    assert set(made["against_retriever"]) >= {"titles alone", "titles blend", "llamarec blend"}
    assert made["rows"]["titles alone"]["recall@20"] == made["rows"]["lrurec"]["recall@20"]
    assert json.loads(json.dumps(made)) == made


def test_a_weight_of_zero_gives_exactly_the_retrievers_metrics(
    data: Prepared, retriever: LoadedRetriever, bpe_folder: Path, tmp_path: Path
) -> None:
    tiny.trained(tmp_path / "out", bpe_folder)
    ranker = load_ranker(tmp_path / "out", data.catalog).ranker
    ranker.weight = 0.0  # type: ignore[attr-defined]
    stage = retrieve(data, retriever, "window")
    reranked = rerank(ranker, stage)  # type: ignore[arg-type]
    assert (reranked.ranks["llamarec blend"] == stage.ranks["lrurec"]).all()
    difference = against(stage.ranks | reranked.ranks, seed=0)["llamarec blend"]["ndcg@10"]
    assert (difference["mean"], difference["low"], difference["high"], difference["p_value"]) == (0.0, 0.0, 0.0, 1.0)


def test_an_oracle_reaches_the_retrievers_recall_and_no_ranker_more(
    made: dict[str, Any], data: Prepared, retriever: LoadedRetriever
) -> None:
    stage = retrieve(data, retriever, "window")
    ceiling = made["rows"]["lrurec"]["recall@20"]
    oracle_U = np.where(stage.ranks["lrurec"] > 0, 1, 0)
    assert oracle_U.mean() == ceiling
    for name in ("llamarec alone", "llamarec blend"):
        assert made["rows"][name]["recall@20"] == ceiling
        assert made["rows"][name]["recall@1"] <= ceiling


def test_every_user_is_in_one_band_of_each_kind(made: dict[str, Any]) -> None:
    for rows in made["bands"].values():
        assert sum(row["users"] for row in rows) == made["users"]


def test_popularity_thirds_share_the_events_and_the_head_is_the_most_popular(data: Prepared) -> None:
    third_V = popularity_third(data)
    counts_V = np.zeros(len(third_V))
    for sequence in data.sequences():
        np.add.at(counts_V, sequence[:-2], 1)
    assert counts_V[third_V == 2].min() >= counts_V[third_V == 0].max()
    assert counts_V[third_V == 2].sum() == pytest.approx(counts_V.sum() / 3, abs=counts_V.max() + 1)


def test_reliability_of_a_calibrated_model_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    p_UC = rng.dirichlet(np.ones(4), size=20_000)
    truth_U = (p_UC.cumsum(1) > rng.random(len(p_UC))[:, None]).argmax(1)
    bins = reliability(p_UC, truth_U)
    assert sum(b["labels"] for b in bins) == p_UC.size
    assert all(abs(b["said"] - b["was"]) < 0.03 for b in bins if b["labels"] > 1_000)


def test_users_limits_the_cases_evenly(data: Prepared, retriever: LoadedRetriever) -> None:
    some: Retrieved = retrieve(data, retriever, "history", users=5)
    everyone = [case.user for case in cases(data, "test")]
    assert [case.user for case in some.cases] == [everyone[place] for place in spaced(len(everyone), 5)]


def test_without_baselines_their_libraries_are_not_needed(
    data: Prepared, retriever: LoadedRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "retriever.baselines", None)
    assert "lrurec" in report(data, retriever, None, seed=1, users=4)["rows"]
    with pytest.raises(ModuleNotFoundError):
        report(data, retriever, None, seed=1, users=4, baselines=["als"])


def test_a_truth_behind_what_the_ranker_takes_keeps_the_retrievers_place(
    data: Prepared, retriever: LoadedRetriever, bpe_folder: Path, tmp_path: Path
) -> None:
    tiny.trained(tmp_path / "out", bpe_folder)
    ranker = load_ranker(tmp_path / "out", data.catalog).ranker
    stage = retrieve(data, retriever, "window")
    ranker.max_candidates = 2
    behind_U = stage.ranks["lrurec"] > 2
    assert behind_U.any()
    for ranks_U in rerank(ranker, stage).ranks.values():  # type: ignore[arg-type]
        np.testing.assert_array_equal(ranks_U[behind_U], stage.ranks["lrurec"][behind_U])


def test_the_order_need_not_be_measured(data: Prepared, retriever: LoadedRetriever, bpe_folder: Path) -> None:
    assert "order_sensitivity" not in report(data, retriever, None, seed=1, order_users=0)


def test_plots_are_drawn_for_what_the_report_holds(made: dict[str, Any], tmp_path: Path) -> None:
    drawn = plots.draw(made, tmp_path)
    names = {"bands_activity.png", "bands_popularity.png", "movement.png", "reliability.png"}
    assert {path.name for path in drawn} == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_the_results_page_shows_every_system_and_is_the_same_every_time(made: dict[str, Any], tmp_path: Path) -> None:
    counts = {"users_after": 30, "items_after": 40, "interactions_after": 240}
    told = made | {"data": made["data"] | counts, "wall_seconds": 1.0}
    told |= {"hardware": {"cpu": "a", "cores": 2, "gpu": None}}
    (tmp_path / "games").mkdir()
    (tmp_path / "games" / "seed-42.json").write_text(json.dumps(told))
    page = results.page(tmp_path)
    assert page == results.page(tmp_path)
    for row in ("| popularity |", "| item-knn |", "**LRURec**, seed 42", "LlamaRec, 7B (paper)", "blended"):
        assert row in page


def test_the_committed_page_is_what_its_json_files_say() -> None:
    docs = Path(__file__).parents[2] / "docs"
    assert (docs / "results.md").read_text() == results.page(docs / "results")


def test_a_ranker_that_has_seen_what_is_held_out_is_not_measured_by_it(
    data: Prepared, retriever: LoadedRetriever, bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cllm4rec.trained(tmp_path / "out", bpe_folder, alone=True, split="random")
    monkeypatch.setattr("retriever.retrieve.load", lambda folder, catalog: retriever)
    with pytest.raises(BadInput, match="was trained with split=random"):
        load_both(data, tmp_path, tmp_path / "out", None, "cpu")
