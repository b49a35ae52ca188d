"""A whole training in miniature, and what it serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ranker import backbone
from ranker.behaviour.fit import next_scores
from ranker.behaviour.models import FILE
from ranker.fit import ADAPTER
from ranker.llara import evaluate
from ranker.llara.batches import Slate, fixed_slates, nexts_of
from ranker.llara.evaluate import measured, report, share
from ranker.llara.model import LLaRA
from ranker.llara.rank import PROJECTOR, LLaRAScorer
from ranker.llara.recipes import RECIPES, configure
from ranker.llara.train import train
from ranker.registry import load
from shared.artifact import open_artifact
from shared.errors import BadArtifact, BadInput, GoldenMismatch, LabelMismatch
from shared.protocols import Ranker
from tests.contracts.ranker import RankerContract
from tests.ranker import tiny
from tests.ranker.llara import made

CATALOG = tiny.DATA.catalog


@pytest.fixture(scope="module")
def artifacts(bpe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("llara")
    kinds: dict[str, dict[str, object]] = {
        "title": {},
        "letter": {"answer": "letter"},
        "direct": {"curriculum": "direct"},
        "two-stage": {"curriculum": "two-stage"},
        "text": {"curriculum": "text"},
        "again": {},
        "caser": {"behaviour": "caser"},
        "user": {"user": True},
        "bound": {"user": True, "binding_prompts": 16},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        for name, changes in kinds.items():
            made.trained(folder / name, bpe_folder, **changes)
    return {name: folder / name for name in kinds}


def test_a_sequential_model_can_be_another_runs(
    artifacts: dict[str, Path], bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "best_dtype", lambda device: torch.float32)
    # Caser draws its dropout where it is trained: what comes after must not hear of it.
    theirs = artifacts["caser"]
    manifest = made.trained(tmp_path / "taken", bpe_folder, sequential=str(theirs), behaviour="caser")
    for name in (FILE, ADAPTER, PROJECTOR):
        assert tiny.same(theirs, tmp_path / "taken", name)
    assert manifest.metrics["behaviour"]["mrr"] > 0
    assert manifest.config["sequential"] == open_artifact(theirs, "ranker").name
    with pytest.raises(BadInput, match="holds gru4rec; this run has caser"):
        made.trained(tmp_path / "other", bpe_folder, sequential=str(artifacts["title"]), behaviour="caser")
    with pytest.raises(BadInput, match="already"):
        configure("demo", {"sequential": "somewhere"})


class TestTitles(RankerContract):
    items = tiny.ITEMS
    tolerance = 1e-3  # a title's log probability is a sum over its tokens

    @pytest.fixture
    def ranker(self, artifacts: dict[str, Path]) -> Ranker:
        loaded = load(artifacts["title"], CATALOG, device="cpu")
        loaded.ranker.weight = 0.5  # type: ignore[attr-defined]
        return loaded.ranker


class TestLetters(TestTitles):
    @pytest.fixture
    def ranker(self, artifacts: dict[str, Path]) -> Ranker:
        loaded = load(artifacts["letter"], CATALOG, device="cpu")
        loaded.ranker.weight = 1.0  # type: ignore[attr-defined]
        return loaded.ranker


class TestUsers(TestTitles):
    @pytest.fixture
    def ranker(self, artifacts: dict[str, Path]) -> Ranker:
        loaded = load(artifacts["user"], CATALOG, device="cpu")
        loaded.ranker.weight = 0.5  # type: ignore[attr-defined]
        return loaded.ranker


def test_every_kind_loads_and_reproduces_its_golden_score(artifacts: dict[str, Path]) -> None:
    for folder in artifacts.values():
        loaded = load(folder, CATALOG, device="cpu")
        assert set(loaded.manifest.files) == {ADAPTER, PROJECTOR, FILE}
        loaded.self_test()


def test_the_same_seed_gives_the_same_bits(artifacts: dict[str, Path]) -> None:
    for name in (ADAPTER, PROJECTOR, FILE):
        assert tiny.same(artifacts["title"], artifacts["again"], name)


def test_curricula_part_and_text_alone_never_moves_the_projector(artifacts: dict[str, Path]) -> None:
    """All begin from the same projector; text keeps it."""
    curves = [
        load(artifacts[kind], CATALOG, device="cpu").manifest.metrics["curve"]
        for kind in ("title", "direct", "two-stage", "text")
    ]
    assert all(one not in curves[:n] for n, one in enumerate(curves))
    assert not tiny.same(artifacts["direct"], artifacts["text"], PROJECTOR)
    scorer = load(artifacts["text"], CATALOG, device="cpu").ranker.scorer  # type: ignore[attr-defined]
    assert scorer.hybrid is False


def test_the_sequential_model_is_frozen(artifacts: dict[str, Path]) -> None:
    assert tiny.same(artifacts["title"], artifacts["direct"], FILE)
    assert tiny.same(artifacts["title"], artifacts["text"], FILE)


def test_a_binding_stage_comes_first_and_teaches_titles(artifacts: dict[str, Path]) -> None:
    plain, bound = (open_artifact(artifacts[kind], "ranker").metrics for kind in ("user", "bound"))
    assert not plain["binding_curve"]
    assert [prompts for prompts, *_ in bound["binding_curve"]] == [16]
    assert bound["curve"][0][2] < plain["curve"][0][2]
    for wrong in ({}, {"user": "true", "curriculum": "text"}):
        with pytest.raises(BadInput, match="users' tokens"):
            configure("demo", {"binding_prompts": "8", **wrong})


def test_the_loss_comes_down(bpe_folder: Path, tmp_path: Path) -> None:
    metrics = made.trained(tmp_path / "out", bpe_folder, prompts=320, validate_every=80).metrics
    losses = [loss for *_, loss in metrics["curve"]]
    assert losses == sorted(losses, reverse=True)


def test_an_interrupted_run_ends_as_a_whole_one(
    artifacts: dict[str, Path], bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    whole = LLaRA.loss

    def cut(self: LLaRA, *args: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return whole(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(LLaRA, "loss", cut)
        with pytest.raises(KeyboardInterrupt):
            made.trained(tmp_path / "cut", bpe_folder)
    made.trained(tmp_path / "cut", bpe_folder, resume=True)
    for name in (ADAPTER, PROJECTOR, FILE):
        assert tiny.same(tmp_path / "cut", artifacts["title"], name)


def test_the_papers_rows_are_reported_with_intervals(artifacts: dict[str, Path]) -> None:
    loaded = load(artifacts["title"], CATALOG, device="cpu")
    scorer = loaded.ranker.scorer  # type: ignore[attr-defined]
    assert isinstance(scorer, LLaRAScorer)
    config = made.config(Path("nowhere"))
    data = nexts_of(tiny.DATA, config)
    made_report = report(scorer, data, config)
    assert set(made_report["rows"]) == {"sequential model", "as served", "generated", "blended"}
    assert made_report == report(scorer, data, config)
    row = made_report["rows"]["as served"]
    assert row["valid_ratio"]["value"] == 1
    assert row["hit_ratio@1"]["low"] <= row["hit_ratio@1"]["value"] <= row["hit_ratio@1"]["high"]


def test_the_blended_row_is_the_served_blend_fitted_to_the_sequential_model_on_validation_slates(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain loop over the slates; and a language model that knows the answer gets all the weight it wants."""
    loaded = load(artifacts["title"], CATALOG, device="cpu")
    scorer = loaded.ranker.scorer  # type: ignore[attr-defined]
    config = made.config(Path("nowhere"))
    data = nexts_of(tiny.DATA, config)
    slates = fixed_slates(data.test, len(data.catalog), None, config)
    behaviour_UC = evaluate.behaviour_scores(scorer.model.behaviour, slates)
    for slate, row_C in zip(slates[:5], behaviour_UC, strict=False):
        window = torch.tensor([[0] * (scorer.model.behaviour.sizes.window - len(slate.history)) + slate.history])
        scores_V = next_scores(scorer.model.behaviour, window)[0]
        assert row_C[: len(slate.candidates)] == pytest.approx([float(scores_V[i]) for i in slate.candidates], abs=1e-6)

    def knows(_: object, asked: list[Slate]) -> np.ndarray:
        return np.array([[5.0 * (place == s.right) for place in range(len(s.candidates))] for s in asked])

    def knows_nothing(_: object, asked: list[Slate]) -> np.ndarray:
        return np.zeros((len(asked), len(asked[0].candidates)))

    monkeypatch.setattr(evaluate, "generate", lambda _, asked, *rest: [""] * len(asked))
    monkeypatch.setattr(evaluate, "opinions", knows)
    told = report(scorer, data, config)
    assert told["blend"]["weight"] > 0
    assert told["rows"]["blended"]["hit_ratio@1"]["value"] == 1
    monkeypatch.setattr(evaluate, "opinions", knows_nothing)
    told = report(scorer, data, config)
    assert told["blend"]["weight"] == 0
    assert told["rows"]["blended"] == told["rows"]["sequential model"]


def test_a_slate_that_is_short_of_candidates_is_measured_beside_whole_ones(artifacts: dict[str, Path]) -> None:
    loaded = load(artifacts["title"], CATALOG, device="cpu")
    scorer = loaded.ranker.scorer  # type: ignore[attr-defined]
    slates = [Slate([1], [2, 3, 4], 2), Slate([2], [5, 1], 0)]
    for scores_UC in (evaluate.opinions(scorer, slates), evaluate.behaviour_scores(scorer.model.behaviour, slates)):
        assert np.isfinite(scores_UC).tolist() == [[True] * 3, [True, True, False]]


def test_without_validation_slates_there_is_no_blend_to_report(artifacts: dict[str, Path]) -> None:
    loaded = load(artifacts["letter"], CATALOG, device="cpu")
    scorer = loaded.ranker.scorer  # type: ignore[attr-defined]
    config = made.config(Path("nowhere"))
    data = nexts_of(tiny.DATA, config)
    told = report(scorer, replace(data, valid=data.valid.take(np.arange(0))), config)
    assert "blend" not in told
    assert set(told["rows"]) == {"sequential model", "as served"}


def test_an_answer_that_names_nothing_is_neither_valid_nor_a_hit(artifacts: dict[str, Path]) -> None:
    slates = [Slate([1], [2, 3], 0)] * 4
    row = measured([0, 1, None, 0], slates)
    assert (row["hit_ratio@1"]["value"], row["valid_ratio"]["value"]) == (0.5, 0.75)


def test_wilsons_interval_is_the_published_one() -> None:
    """8 of 10: .490 to .943; none of 10: 0 to .278 (Newcombe, 1998)."""
    assert (round(share(8, 10).low, 3), round(share(8, 10).high, 3)) == (0.49, 0.943)
    assert (share(0, 10).low, round(share(0, 10).high, 3)) == (0.0, 0.278)


def test_paper_rows_train_without_a_retriever_and_stand_alone(bpe_folder: Path, tmp_path: Path) -> None:
    config = made.config(bpe_folder, prompts=16, validate_every=16)
    data = nexts_of(tiny.DATA, config)
    manifest = train(data, config, tmp_path / "out", device="cpu")
    assert manifest.extra["blend"] == 1.0
    with pytest.raises(BadInput, match="--retriever"):
        train(data, made.config(bpe_folder, behaviour="lrurec"), tmp_path / "other", device="cpu")


def test_another_backbone_is_refused(artifacts: dict[str, Path], bpe_folder: Path, tmp_path: Path) -> None:
    tokenizer = backbone.load(str(bpe_folder), device="cpu").tokenizer
    weights = tiny.save(tmp_path / "weights", tokenizer, tiny.llama(len(tokenizer), seed=5))
    with pytest.raises(GoldenMismatch):
        load(artifacts["title"], CATALOG, backbone=str(weights), device="cpu").self_test()
    narrow = tiny.save(tmp_path / "narrow", tokenizer, tiny.llama(len(tokenizer), hidden=32))
    with pytest.raises(BadArtifact):
        load(artifacts["title"], CATALOG, backbone=str(narrow), device="cpu")
    words = tiny.bpe(["zig zag zoo " * 40, *tiny.corpus()])
    other = tiny.save(tmp_path / "words", words, tiny.llama(len(words)))
    for name in ("title", "letter"):
        with pytest.raises(LabelMismatch):
            load(artifacts[name], CATALOG, backbone=str(other), device="cpu")


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"candidates": "21"}, "candidates=21"),
        ({"hard": "-0.1"}, "hard=-0.1"),
        ({"behaviour": "mf"}, "behaviour=mf"),
        ({"batch": "0"}, "batch=0"),
        ({"curriculum": "never"}, "one of"),
    ],
)
def test_configs_that_cannot_train_are_refused(overrides: dict[str, str], fault: str) -> None:
    with pytest.raises(BadInput, match=fault):
        configure("demo", overrides)


def test_recipes_are_whole_configs(bpe_folder: Path, tmp_path: Path) -> None:
    for recipe in RECIPES:
        assert configure(recipe, {}).curriculum == "curriculum"
    with pytest.raises(BadInput, match="unknown for llara"):
        configure("nowhere", {})
    with pytest.raises(BadInput, match="4 training items"):
        made.trained(tmp_path / "out", bpe_folder, tiny.prepared([[1, 2, 3, 4, 5]] * 3, tiny.catalog(30)))
