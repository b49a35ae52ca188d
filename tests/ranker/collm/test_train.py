"""A whole training in miniature: what each step may change, and what it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ranker.collm.train as training
from ranker import backbone
from ranker.behaviour.fit import pair_logits
from ranker.behaviour.models import FILE
from ranker.collm.batches import pairs_of
from ranker.collm.evaluate import PRIOR, item_means, measured, report
from ranker.collm.rank import MAPPING, CoLLMScorer
from ranker.collm.recipes import RECIPES, configure
from ranker.fit import ADAPTER
from ranker.registry import load
from shared.artifact import Manifest
from shared.candidate import Candidate
from shared.errors import BadArtifact, BadInput, GoldenMismatch, LabelMismatch
from shared.history import History
from shared.protocols import Ranker
from tests.contracts.ranker import RankerContract
from tests.ranker import tiny
from tests.ranker.collm import made

CATALOG = tiny.DATA.catalog


@pytest.fixture(scope="module")
def artifacts(bpe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """TALLRec and CoLLM in several forms, all of one seed. Copy before changing."""
    folder = tmp_path_factory.mktemp("collm")
    kinds: dict[str, dict[str, object]] = {
        "tallrec": {"tune": "text"},
        "mf": {},
        "din": {"behaviour": "din"},
        "svdpp": {"behaviour": "svdpp"},
        "read": {"tallrec": str(folder / "tallrec")},
        "model": {"tune": "mapping+model"},
        "together": {"tune": "together"},
        "small": {"precision": "int8", "tune": "mapping+model"},
        "at once": {"tune": "lora+mapping"},
        "packed": {"packed": True, "negatives": 3, "teacher": 0.5, "tune": "lora+mapping"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        for name, changes in kinds.items():
            made.trained(folder / name, bpe_folder, **changes)
    return {name: folder / name for name in kinds}


class TestCoLLM(RankerContract):
    items = tiny.ITEMS

    @pytest.fixture
    def ranker(self, artifacts: dict[str, Path]) -> Ranker:
        loaded = load(artifacts["mf"], CATALOG, device="cpu")
        loaded.ranker.weight = 0.5  # type: ignore[attr-defined]
        return loaded.ranker


class TestWithDIN(TestCoLLM):
    behaviour = "din"

    @pytest.fixture
    def ranker(self, artifacts: dict[str, Path]) -> Ranker:
        loaded = load(artifacts[self.behaviour], CATALOG, device="cpu")
        loaded.ranker.weight = 1.0  # type: ignore[attr-defined]
        return loaded.ranker


class TestWithSVDpp(TestWithDIN):
    """Whose user is a row and a history."""

    behaviour = "svdpp"


class TestTALLRec(TestCoLLM):
    @pytest.fixture
    def ranker(self, artifacts: dict[str, Path]) -> Ranker:
        loaded = load(artifacts["tallrec"], CATALOG, device="cpu")
        loaded.ranker.weight = 1.0  # type: ignore[attr-defined]
        return loaded.ranker


def test_step_two_leaves_lora_bit_equal_to_tallrecs(artifacts: dict[str, Path]) -> None:
    for name in ("mf", "din", "model", "read", "small"):
        assert tiny.same(artifacts[name], artifacts["tallrec"], ADAPTER)
    for name in ("together", "at once"):
        assert not tiny.same(artifacts[name], artifacts["tallrec"], ADAPTER)


def test_step_one_may_be_read_from_an_artifact(artifacts: dict[str, Path]) -> None:
    """Step two begins from other random numbers, so that its mapping is another, of the same make."""
    assert load(artifacts["read"], CATALOG, device="cpu").manifest.metrics["steps"].keys() == {"mapping"}


def test_only_the_variants_that_say_so_tune_the_collaborative_model(artifacts: dict[str, Path]) -> None:
    for name in ("read", "at once"):
        assert tiny.same(artifacts["mf"], artifacts[name], FILE)
    assert not tiny.same(artifacts["mf"], artifacts["model"], FILE)
    assert not tiny.same(artifacts["mf"], artifacts["together"], FILE)


def test_the_manifest_says_what_was_made(artifacts: dict[str, Path]) -> None:
    text, whole = (load(artifacts[name], CATALOG, device="cpu").manifest for name in ("tallrec", "mf"))
    assert (text.method, whole.method) == ("tallrec", "collm")
    assert set(text.files) == {ADAPTER}
    assert set(whole.files) == {ADAPTER, FILE, MAPPING, "users.json"}
    assert list(whole.metrics["steps"]) == ["text", "mapping"]
    assert [prompts for prompts, *_ in whole.metrics["steps"]["mapping"]["curve"]] == [16, 32, 48]


def test_what_was_trained_reproduces_its_golden_score(artifacts: dict[str, Path]) -> None:
    for folder in artifacts.values():
        load(folder, CATALOG, device="cpu").self_test()


def test_other_weights_of_the_backbone_fail_the_self_test(
    artifacts: dict[str, Path], bpe_folder: Path, tmp_path: Path
) -> None:
    tokenizer = backbone.load(str(bpe_folder), device="cpu").tokenizer
    other = tiny.save(tmp_path / "other", tokenizer, tiny.llama(len(tokenizer), seed=5))
    with pytest.raises(GoldenMismatch):
        load(artifacts["mf"], CATALOG, backbone=str(other), device="cpu").self_test()


def test_a_backbone_of_another_tokenizer_or_width_is_refused(artifacts: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = tiny.bpe(["zig zag zoo " * 40, *tiny.corpus()])
    other = tiny.save(tmp_path / "other", tokenizer, tiny.llama(len(tokenizer)))
    with pytest.raises(LabelMismatch):
        load(artifacts["mf"], CATALOG, backbone=str(other), device="cpu")
    narrow = tiny.save(tmp_path / "narrow", tokenizer, tiny.llama(len(tokenizer), hidden=32))
    with pytest.raises(BadArtifact):
        load(artifacts["mf"], CATALOG, backbone=str(narrow), device="cpu")


def test_an_interrupted_run_ends_as_a_whole_one(
    artifacts: dict[str, Path], bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut in step two, after 6 steps of 4 in step one and 2 more."""
    calls = 0
    whole = training.pair_loss

    def cut(*args: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return whole(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "pair_loss", cut)
        with pytest.raises(KeyboardInterrupt):
            made.trained(tmp_path / "cut", bpe_folder)
    made.trained(tmp_path / "cut", bpe_folder, resume=True)
    for name in (ADAPTER, MAPPING, FILE):
        assert tiny.same(tmp_path / "cut", artifacts["mf"], name)
    assert [path.name for path in tmp_path.iterdir()] == ["cut"]


def test_resuming_where_nothing_was_begun_is_refused(bpe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"out\.partial holds no checkpoint"):
        made.trained(tmp_path / "out", bpe_folder, resume=True)


def test_the_mapping_learns_a_taste_that_no_title_tells(bpe_folder: Path, tmp_path: Path) -> None:
    """All titles are alike: TALLRec stays at chance, the collaborative vectors tell it all."""
    data = made.pair_data()
    settings = made.config(
        bpe_folder,
        text_prompts=64,
        mapping_prompts=2400,
        batch=16,
        learning_rate=5e-3,
        width=16,
        validation_pairs=200,
        validate_every=400,
    )
    training.train(data, settings, tmp_path / "out", device="cpu")
    scorer = load(tmp_path / "out", data.catalog, device="cpu").ranker.scorer  # type: ignore[attr-defined]
    assert isinstance(scorer, CoLLMScorer)
    found = report(scorer, data)
    rows = found["rows"]
    assert rows["hybrid"]["all"]["auc"] > 0.9
    for name, one in found["gain"].items():
        assert one["mean"] == rows["hybrid"]["all"][name] - rows["collaborative model"]["all"][name]
        assert one["interval"][0] <= one["mean"] <= one["interval"][1]
    assert rows["hybrid"]["all"]["uauc"] > 0.85
    assert abs(rows["text only"]["all"]["auc"] - 0.5) < 0.12
    assert rows["collaborative model"]["warm"]["pairs"] + rows["collaborative model"]["cold"]["pairs"] == 300


def test_pairs_without_vectors_teach_the_mapping_nothing_and_stop_nobody(bpe_folder: Path, tmp_path: Path) -> None:
    """Every second pair has no history, and SASRec knows a user by his history."""
    data = made.pair_data()
    histories_NL = data.train.histories_NL.copy()
    histories_NL[::2] = 0
    sizes: dict[str, object] = {"behaviour": "sasrec", "batch": 1, "text_prompts": 1, "mapping_prompts": 12}
    half = replace(data, train=replace(data.train, histories_NL=histories_NL))
    training.train(half, made.config(bpe_folder, **sizes), tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / MAPPING).is_file()
    none = replace(data, train=replace(data.train, histories_NL=np.zeros_like(histories_NL)))
    with pytest.raises(BadInput, match="SASRec: its mapping learns nothing"):
        training.train(none, made.config(bpe_folder, **sizes), tmp_path / "none", device="cpu")


def test_an_items_mean_is_that_of_its_training_pairs_and_of_all_where_there_are_none() -> None:
    data = made.pair_data()
    means_N = item_means(data.train, data.test)
    overall = float(data.train.labels_N.mean())
    for item, mean in zip(data.test.items_N, means_N, strict=True):
        own = data.train.labels_N[data.train.items_N == item]
        assert mean == pytest.approx((own.sum() + PRIOR * overall) / (len(own) + PRIOR))


def test_int8_is_a_third_of_the_file_and_orders_alike(artifacts: dict[str, Path]) -> None:
    whole, small = (artifacts[name] / MAPPING for name in ("model", "small"))
    assert small.stat().st_size < 0.4 * whole.stat().st_size
    given = [Candidate(item, 0.0) for item in range(11, 31)]
    told = []
    for name in ("model", "small"):
        ranker = load(artifacts[name], CATALOG, device="cpu").ranker
        ranker.weight = 1.0  # type: ignore[attr-defined]
        [ranking] = ranker.rank([History((3, 4, 5), "u1")], [given])
        told.append({c.item: c.score for c in ranking.candidates})
    assert told[0] == pytest.approx(told[1], abs=0.05)


def test_confidence_is_not_read_off_the_vocabulary(artifacts: dict[str, Path]) -> None:
    """The loss leaves Yes and No as unlikely as they were beside all other words."""
    scorer = load(artifacts["mf"], CATALOG, device="cpu").ranker.scorer  # type: ignore[attr-defined]
    with_engine = scorer.score([History((3, 4), "u1")], [[7, 9]])
    scorer.engine = None
    assert [opinion.mass for opinion in [*with_engine, *scorer.score([History((3, 4), "u1")], [[7, 9]])]] == [1.0, 1.0]


def test_packed_slates_score_as_whole_prompts_do(artifacts: dict[str, Path]) -> None:
    scorer = load(artifacts["packed"], CATALOG, device="cpu").ranker.scorer  # type: ignore[attr-defined]
    settings = made.config(Path("nowhere"), packed=True, negatives=3)
    pairs = pairs_of(tiny.DATA, tiny.Neighbours(tiny.ITEMS), settings).valid
    for hybrid in (True, False):
        packed_N = training.score_pairs(scorer.model, pairs, hybrid, packed=True)
        np.testing.assert_allclose(packed_N, training.score_pairs(scorer.model, pairs, hybrid), atol=1e-4)


def test_the_teacher_is_the_collaborative_models_probability() -> None:
    pairs, model = made.pairs(20, 0), made.behaviour("mf")
    said_N = 1 / (1 + np.exp(-pair_logits(model, pairs)))
    for share in (0.0, 0.25, 1.0):
        told_N = training._told(pairs, model, made.config(Path("nowhere"), teacher=share))
        np.testing.assert_allclose(told_N, (1 - share) * pairs.labels_N + share * said_N, atol=1e-6)


def test_warm_and_cold_are_measured_apart() -> None:
    pairs = made.pairs(300, 5)
    scores_N = pairs.labels_N + 0.0
    scores_N[~pairs.warm_N] *= -1
    rows = measured(pairs, scores_N, seed=0)
    assert (rows["warm"]["auc"], rows["cold"]["auc"]) == (1.0, 0.0)
    assert rows["warm"]["pairs"] == int(pairs.warm_N.sum())
    assert rows["all"]["uauc_95"][0] < rows["all"]["uauc"] < rows["all"]["uauc_95"][1]


def test_events_alone_need_a_retriever(bpe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--retriever"):
        training.train(tiny.DATA, made.config(bpe_folder), tmp_path / "out", device="cpu")
    with pytest.raises(BadInput, match="--retriever"):
        training.train(made.pair_data(), made.config(bpe_folder, behaviour="lrurec"), tmp_path / "out", device="cpu")


def test_step_one_of_another_make_is_refused(artifacts: dict[str, Path], bpe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="lora_rank=8"):
        made.trained(tmp_path / "out", bpe_folder, tallrec=str(artifacts["tallrec"]), lora_rank=4)


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"batch": "0"}, "batch=0"),
        ({"hard": "1.5"}, "hard=1.5"),
        ({"negatives": "0"}, "negatives=0"),
        ({"behaviour": "caser"}, "behaviour=caser"),
        ({"behaviour": "svdpp", "width": "2"}, "width=2: svdpp"),
        ({"tune": "together", "tallrec": "x"}, "no step two"),
        ({"tune": "never"}, "one of"),
        ({"teacher": "2"}, "teacher=2"),
        ({"teacher": "0.5", "behaviour": "lrurec"}, "no probabilities"),
        ({"behaviour_decays": ""}, "one or more numbers"),
        ({"behaviour_decays": "1e-3,much"}, "'much' is no float"),
    ],
)
def test_configs_that_cannot_train_are_refused(overrides: dict[str, str], fault: str) -> None:
    with pytest.raises(BadInput, match=fault):
        configure("demo", overrides)


def test_recipes_are_whole_configs() -> None:
    for recipe in RECIPES:
        assert configure(recipe, {"behaviour_decays": "0.5,2"}).behaviour_decays == (0.5, 2.0)
        assert configure(recipe, {}, text_only=True).tune == "text"
    with pytest.raises(BadInput, match="unknown for collm"):
        configure("nowhere", {})


def test_manifests_are_json(artifacts: dict[str, Path]) -> None:
    for folder in artifacts.values():
        kept = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
        assert json.loads(json.dumps(kept.extra)) == kept.extra
