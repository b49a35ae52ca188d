"""A whole training in miniature, and what it serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ranker.cllm4rec.train as training
from ranker import backbone
from ranker.cllm4rec.evaluate import measured, ndcg, recall, report
from ranker.cllm4rec.model import CLLM4Rec
from ranker.cllm4rec.rank import COUNTS, EMBEDDINGS, NEWCOMER, USERS, RecLLMScorer
from ranker.cllm4rec.recipes import RECIPES, configure
from ranker.refit import refit
from ranker.registry import LoadedRanker, load
from shared.artifact import Manifest, open_artifact, seal
from shared.candidate import Candidate
from shared.data.holdout import holdout
from shared.errors import BadArtifact, BadInput, GoldenMismatch
from shared.history import History
from shared.protocols import Ranker
from tests.contracts.ranker import RankerContract
from tests.ranker import tiny
from tests.ranker.cllm4rec import made

CATALOG = tiny.DATA.catalog


@pytest.fixture(scope="module")
def artifact(bpe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cllm4rec") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        made.trained(out, bpe_folder)
    return out


@pytest.fixture
def loaded(artifact: Path) -> LoadedRanker:
    return load(artifact, CATALOG, device="cpu")


def scorer(loaded: LoadedRanker) -> RecLLMScorer:
    found = loaded.ranker.scorer  # type: ignore[attr-defined]
    assert isinstance(found, RecLLMScorer)
    return found


class TestRecLLM(RankerContract):
    items = tiny.ITEMS

    @pytest.fixture
    def ranker(self, artifact: Path) -> Ranker:
        loaded = load(artifact, CATALOG, device="cpu")
        loaded.ranker.weight = 0.6  # type: ignore[attr-defined]
        return loaded.ranker


def test_the_artifact_holds_the_collaborative_embeddings_and_nothing_of_the_backbone(loaded: LoadedRanker) -> None:
    manifest = loaded.manifest
    assert manifest.method == "cllm4rec"
    assert set(manifest.files) == {EMBEDDINGS, USERS, COUNTS}
    assert list(manifest.metrics["stages"]) == ["content", "pretrain", "recllm"]
    loaded.self_test()


def test_the_backbone_and_its_vocabulary_stay(
    bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very model that trained, against its file."""
    seen: list[torch.nn.Module] = []
    original = backbone.load

    def spy(*args: object, **kwargs: object) -> backbone.Backbone:
        base = original(*args, **kwargs)  # type: ignore[arg-type]
        seen.append(base.model)
        return base

    monkeypatch.setattr(backbone, "load", spy)
    made.trained(tmp_path / "out", bpe_folder)
    fresh = original(str(bpe_folder), device="cpu").model.state_dict()
    trained = seen[0].state_dict()
    assert trained.keys() == fresh.keys()
    assert all(torch.equal(trained[name], fresh[name]) for name in fresh)


def test_one_pass_scores_all_items_and_its_vector_serves_any_candidates(loaded: LoadedRanker) -> None:
    history = History((1, 2, 3), "u1")
    vectors_BD = scorer(loaded).encode([history])
    [direct] = scorer(loaded).score([history], [[7, 9, 8]])
    [cached] = scorer(loaded).score_encoded(vectors_BD, [history], [[9, 30]])
    scores_I = vectors_BD[0] @ scorer(loaded).item_table.numpy().T
    np.testing.assert_allclose(direct.logits_C, scores_I[[6, 8, 7]], atol=1e-4)
    np.testing.assert_allclose(cached.logits_C, scores_I[[8, 29]], atol=1e-4)
    assert direct.mass == 1.0


def test_new_candidates_for_a_known_vector_need_no_language_model(
    loaded: LoadedRanker, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History((1, 2, 3), "u1")
    vectors_BD = scorer(loaded).encode([history])

    def refuse(self: CLLM4Rec, prompts: object) -> torch.Tensor:
        raise AssertionError("the language model was asked")

    monkeypatch.setattr(CLLM4Rec, "user_vectors", refuse)
    assert len(scorer(loaded).score_encoded(vectors_BD, [history], [[4, 5]])[0].logits_C) == 2


def test_a_user_without_an_id_token_is_ranked_and_the_ranking_says_so(loaded: LoadedRanker) -> None:
    given = [Candidate(7, 2.0), Candidate(9, 1.0)]
    known, new, anonymous = loaded.ranker.rank(
        [History((1, 2), "u1"), History((1, 2), "nobody"), History((1, 2))], [given] * 3
    )
    assert (known.notes, new.notes) == ((), (NEWCOMER,))
    assert new == anonymous
    logits = [scorer(loaded).score([History((1, 2), u)], [[7, 9]])[0].logits_C for u in ("u1", "u2", None)]
    assert len({tuple(one) for one in logits}) == 3


def test_a_taste_is_learnt(bpe_folder: Path, tmp_path: Path) -> None:
    data = made.tastes()
    settings: dict[str, object] = {"split": "random", "pretrain": 320, "tune": 1600, "validate_every": 400}
    made.trained(tmp_path / "out", bpe_folder, data, alone=True, begin="random", validation_users=40, **settings)
    loaded = load(tmp_path / "out", data.catalog, device="cpu")
    rows = report(scorer(loaded), holdout(data, "random", 1), data.user_ids)["rows"]
    assert rows["recllm"]["recall@20"] > rows["popularity"]["recall@20"] + 0.1
    assert rows["recllm"]["ndcg@100"] > rows["popularity"]["ndcg@100"] + 0.05
    assert loaded.manifest.extra["blend"] == 1.0


def test_the_papers_split_and_a_retrievers_candidates_do_not_go_together(bpe_folder: Path, tmp_path: Path) -> None:
    """Most last items are training items of a random split: whatever is measured by them is too good."""
    with pytest.raises(BadInput, match="split=random trains on"):
        made.trained(tmp_path / "out", bpe_folder, split="random")
    assert list(tmp_path.iterdir()) == []
    made.trained(tmp_path / "out", bpe_folder, split="random", alone=True)
    with pytest.raises(BadInput, match="was trained with split=random"):
        refit(tiny.DATA, tiny.Neighbours(tiny.ITEMS), "neighbours@1", tmp_path / "out", "cpu")
    load(tmp_path / "out", CATALOG, device="cpu").self_test()


@pytest.mark.parametrize("variant", [{"content": False}, {"reorder": False}, {"finetune": False}])
def test_the_papers_ablations_train_and_serve(bpe_folder: Path, tmp_path: Path, variant: dict[str, bool]) -> None:
    manifest = made.trained(tmp_path / "out", bpe_folder, **variant)
    stages = {"content": ["pretrain", "recllm"], "finetune": ["content", "pretrain"]}
    assert list(manifest.metrics["stages"]) == stages.get(next(iter(variant)), ["content", "pretrain", "recllm"])
    load(tmp_path / "out", CATALOG, device="cpu").self_test()


SHORT = {"layers": 1, "content_batch": 4}


def test_with_few_layers_the_content_half_still_learns_to_tell(bpe_folder: Path, tmp_path: Path) -> None:
    curve = made.trained(tmp_path / "out", bpe_folder, content_first=128, **SHORT).metrics["stages"]["content"]["curve"]
    assert [documents for documents, _, _ in curve] == [32, 64, 96, 128]
    assert curve[-1][1] > curve[0][1] + 1
    load(tmp_path / "out", CATALOG, device="cpu").self_test()


@pytest.mark.parametrize("variant", [{}, {"content": False}, {"lambda_c": 2.0}, SHORT])
def test_fine_tuning_can_go_on_from_another_run(bpe_folder: Path, tmp_path: Path, variant: dict[str, object]) -> None:
    """Content, alternation and fine-tuning in one run, or the last of them apart: the same embeddings."""
    expected_stages = made.trained(tmp_path / "whole", bpe_folder, **variant).metrics["stages"]
    made.trained(tmp_path / "first", bpe_folder, finetune=False, **variant)
    told = made.trained(tmp_path / "second", bpe_folder, pretrained=str(tmp_path / "first"), **variant)
    assert told.metrics["stages"].keys() == expected_stages.keys()
    assert told.config["pretrained"] == open_artifact(tmp_path / "first", "ranker").name
    found, expected = (load_file(tmp_path / name / EMBEDDINGS)["collaborative"] for name in ("second", "whole"))
    assert torch.equal(found, expected)
    load(tmp_path / "first", CATALOG, device="cpu").self_test()


def test_embeddings_of_another_training_are_refused(artifact: Path, bpe_folder: Path, tmp_path: Path) -> None:
    made.trained(tmp_path / "first", bpe_folder, finetune=False)
    first = str(tmp_path / "first")
    for change in ({"seed": 2}, {"content": False}, {"lambda_c": 3.0}):
        [(name, value)] = change.items()
        with pytest.raises(BadInput, match=f"trained with {name}=.*, this run has {value}"):
            made.trained(tmp_path / "out", bpe_folder, pretrained=first, **change)
    other = replace(tiny.DATA, manifest=tiny.DATA.manifest.model_copy(update={"data_digest": "e" * 64}))
    with pytest.raises(BadInput, match="trained on other data"):
        made.trained(tmp_path / "out", bpe_folder, other, pretrained=first)
    with pytest.raises(BadInput, match="fine-tuned already"):
        made.trained(tmp_path / "out", bpe_folder, pretrained=str(artifact))
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_an_interrupted_run_ends_as_a_whole_one(
    artifact: Path, bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut in the second stage, and in the third."""
    for method, after in (("c_loss", 5), ("rec_loss", 6)):
        calls = 0
        whole = getattr(CLLM4Rec, method)

        def cut(self: CLLM4Rec, batch: object, whole: object = whole, after: int = after) -> torch.Tensor:
            nonlocal calls
            if torch.is_grad_enabled():
                calls += 1
            if calls == after:
                raise KeyboardInterrupt
            return whole(self, batch)  # type: ignore[operator]

        with monkeypatch.context() as patch:
            patch.setattr(CLLM4Rec, method, cut)
            with pytest.raises(KeyboardInterrupt):
                made.trained(tmp_path / "cut", bpe_folder, resume=method == "rec_loss")
    made.trained(tmp_path / "cut", bpe_folder, resume=True)
    found, expected = (load_file(folder / EMBEDDINGS)["collaborative"] for folder in (tmp_path / "cut", artifact))
    assert torch.equal(found, expected)


def test_a_run_does_not_go_on_with_another_retriever(
    bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.trained(tmp_path / "out", bpe_folder)
    asked = {"retriever": tiny.Neighbours(tiny.ITEMS), "resume": True, "device": "cpu"}
    with pytest.raises(BadInput, match="begun with another retriever"):
        training.train(tiny.DATA, made.config(bpe_folder), tmp_path / "out", retriever_name="neighbours@2", **asked)
    made.trained(tmp_path / "out", bpe_folder, resume=True)


def test_reviews_change_what_is_learnt(artifact: Path, bpe_folder: Path, tmp_path: Path) -> None:
    from ranker.cllm4rec.train import train

    told = [(user, item, "Loud and long.") for user in range(1, 20) for item in range(1, 9)]
    train(tiny.DATA, made.config(bpe_folder), tmp_path / "out", reviews=told, device="cpu")
    found, without = (load_file(folder / EMBEDDINGS)["collaborative"] for folder in (tmp_path / "out", artifact))
    assert not torch.equal(found, without)


def test_damaged_parts_are_refused(artifact: Path, bpe_folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(artifact, tmp_path / "copy"))
    (copy / USERS).write_text('["u1"]')
    seal(copy, Manifest.model_validate_json((copy / "manifest.json").read_bytes()))
    with pytest.raises(BadArtifact, match="1 users and 40 items"):
        load(copy, CATALOG, device="cpu")
    tokenizer = backbone.load(str(bpe_folder), device="cpu").tokenizer
    other = tiny.save(tmp_path / "other", tokenizer, tiny.llama(len(tokenizer), seed=5))
    with pytest.raises(GoldenMismatch):
        load(artifact, CATALOG, backbone=str(other), device="cpu").self_test()


def test_metrics_of_several_truths_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    best_UK = np.stack([rng.permutation(30)[:12] for _ in range(9)])
    truths = [rng.permutation(30)[: rng.integers(1, 8)] for _ in range(9)]
    for k in (3, 12):
        for row, truth, found_recall, found_ndcg in zip(
            best_UK, truths, recall(best_UK, truths, k), ndcg(best_UK, truths, k), strict=True
        ):
            hits = [item in truth for item in row[:k]]
            gain = sum(1 / np.log2(place + 2) for place, hit in enumerate(hits) if hit)
            ideal = sum(1 / np.log2(place + 2) for place in range(min(k, len(truth))))
            assert found_recall == pytest.approx(sum(hits) / min(k, len(truth)))
            assert found_ndcg == pytest.approx(gain / ideal)
    assert set(measured(best_UK, truths)) == {"recall@20", "recall@40", "ndcg@100"}


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"masked": "0"}, "masked=0"),
        ({"masked": "1"}, "masked=1"),
        ({"lambda_c": "-1"}, "lambda_c=-1"),
        ({"batch": "0"}, "batch=0"),
        ({"pretrain": "0", "finetune": "false"}, "nothing to train"),
        ({"pretrained": "somewhere", "finetune": "false"}, "nothing is left to train"),
        ({"finetune": "true", "tune": "0"}, "nothing would be fine-tuned"),
    ],
)
def test_configs_that_cannot_train_are_refused(overrides: dict[str, str], fault: str) -> None:
    with pytest.raises(BadInput, match=fault):
        configure("demo", overrides)


def test_recipes_are_whole_configs(bpe_folder: Path, tmp_path: Path) -> None:
    for recipe in RECIPES:
        assert configure(recipe, {}).lambda_c == 1.0
    with pytest.raises(BadInput, match="unknown for cllm4rec"):
        configure("nowhere", {})
    with pytest.raises(BadInput, match="two training items"):
        made.trained(tmp_path / "out", bpe_folder, tiny.prepared([[1, 2, 3]] * 3, tiny.catalog(30)))
