"""vLLM on a CPU, for real: it says what the local engine says. Runs in its own environment: `make test-vllm`.

In this process unless VLLM_ENABLE_V1_MULTIPROCESSING=1, which is how it serves: starting takes a third of the time so.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ranker import backbone
from ranker.backbone import SMOLLM2, VLLM, Backbone, Pool
from ranker.blend import log_softmax
from ranker.engines.local import LocalEngine
from ranker.engines.protocol import Engine, Spliced
from ranker.engines.soft import last_states
from ranker.fit import adapter_weights, add_lora
from ranker.labels import LETTERS
from ranker.prompt import PromptBuilder
from ranker.registry import LoadedRanker, load
from shared.candidate import Candidate
from shared.errors import BadInput, Unavailable
from shared.history import History
from tests.ranker import tiny
from tests.ranker.cllm4rec import made as cllm4rec
from tests.ranker.collm import made as collm
from tests.ranker.llara import made as llara

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM has an environment of its own: make test-vllm"),
    pytest.mark.filterwarnings("default"),  # vLLM's own
]

LABELS = list(range(300, 320))
WIDTH = 128
"""In heads of 32: vLLM's kernel for CPUs takes no smaller ones."""
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(4, 400, size=length).tolist() for length in (7, 300, 1, 131)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny.bpe(tiny.corpus())
    return tiny.save(tmp_path_factory.mktemp("backbone") / "wide", tokenizer, tiny.llama(len(tokenizer), hidden=WIDTH))


def loaded(folder: Path) -> Backbone:
    return backbone.load(str(folder), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def local(folder: Path) -> Backbone:
    return loaded(folder)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Any]:
    from ranker.engines.vllm_engine import VllmConfig, VllmEngine

    engine = VllmEngine(loaded(folder), VllmConfig(eager=True, adapters=2, adapter_rank=6))
    yield engine
    engine.close()


def lora(local: Backbone, seed: int) -> tuple[Backbone, dict[str, torch.Tensor]]:
    """A loud adapter from the second layer on, over the tensors of `local`."""
    wrapped = add_lora(
        local.shared().model, rank=6, alpha=12, dropout=0.0, targets=("q_proj", "down_proj"), first_layer=1
    )
    torch.manual_seed(seed)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    weights = adapter_weights(wrapped)
    return local.with_model(wrapped.get_base_model().requires_grad_(False)), weights


def test_it_is_an_engine(engine: Any) -> None:
    assert isinstance(engine, Engine)


def test_label_logits_and_their_mass_are_those_of_the_local_engine(engine: Any, local: Backbone) -> None:
    found, expected = engine.label_logits(PROMPTS, LABELS), LocalEngine(local).label_logits(PROMPTS, LABELS)
    np.testing.assert_allclose(found.logits_BK, expected.logits_BK, atol=1e-3)
    np.testing.assert_allclose(found.mass_B, expected.mass_B, atol=1e-5)


def test_last_states_are_not_brought_to_unit_length(engine: Any, local: Backbone) -> None:
    states_BD = last_states(local, PROMPTS, lambda slots_S: slots_S).detach().numpy()
    np.testing.assert_allclose(engine.last_hidden(PROMPTS), states_BD, atol=1e-3)
    assert float(np.linalg.norm(states_BD[0])) > 2


def test_no_prompts_give_no_answers(engine: Any) -> None:
    assert engine.label_logits([], LABELS).logits_BK.shape == (0, len(LABELS))


@pytest.mark.parametrize("length", [0, 2048])
def test_a_prompt_that_does_not_fit_is_refused_and_the_others_go_on(engine: Any, length: int) -> None:
    with pytest.raises(BadInput, match=rf"a prompt of {length} tokens.*1 to 2047"):
        engine.label_logits([[5] * length], LABELS)
    assert np.isfinite(engine.label_logits([[5]], LABELS).logits_BK).all()


class TestSoftTokens:
    IDS: list[int] = RNG.integers(4, 400, size=290).tolist()

    def soft(self, places: list[int], rows_ND: np.ndarray) -> Spliced:
        return Spliced([0 if at in places else token for at, token in enumerate(self.IDS)], places, rows_ND)

    def expected(self, local: Backbone, prompt: Spliced) -> np.ndarray:
        vocabulary = local.model.config.vocab_size
        ids = list(prompt.ids)
        for slot, place in enumerate(prompt.places):
            ids[place] = vocabulary + slot
        rows_ND = torch.from_numpy(prompt.rows_ND)
        return last_states(local, [ids], lambda slots_S: rows_ND[slots_S]).detach().numpy()

    def test_vectors_among_tokens_are_heard_as_by_the_local_engine(self, engine: Any, local: Backbone) -> None:
        prompts = [self.soft([3, 20, 289], RNG.normal(size=(3, WIDTH)).astype(np.float32)) for _ in range(3)]
        found_BD = engine.last_hidden([prompts[0], self.IDS, *prompts[1:]])
        for row, prompt in zip([0, 2, 3], prompts, strict=True):
            np.testing.assert_allclose(found_BD[row : row + 1], self.expected(local, prompt), atol=1e-3)

    def collide(self, engine: Any, local: Backbone, **unsalted: float) -> float:
        """How far the second of two prompts is off that differ in nothing but which of two zeros is a vector."""
        from vllm import PoolingParams

        from ranker.engines.vllm_engine import vllm_input

        nothing = np.zeros((2, WIDTH), dtype=np.float32)
        both, one = self.soft([9, 30], nothing), self.soft([30], nothing[:1])
        token = Spliced([0 if at == 9 else i for at, i in enumerate(one.ids)], one.places, one.rows_ND)
        engine.llm.reset_prefix_cache()
        for prompt in (both, token):
            asked = [vllm_input(prompt, WIDTH, torch.float32, **unsalted)]
            [answer] = engine._ask("encode", asked, PoolingParams(use_activation=False), None, pooling_task="embed")
        return float(np.abs(answer.outputs.data.numpy() - self.expected(local, token)[0]).max())

    def test_a_zero_vector_is_not_taken_for_token_0_out_of_the_prefix_cache(self, engine: Any, local: Backbone) -> None:
        assert self.collide(engine, local, unread=0.0) > 0.01  # vLLM's own key
        assert self.collide(engine, local) < 1e-3

    def test_branches_of_any_length_share_their_prefix_vectors_included(self, engine: Any) -> None:
        from vllm import PoolingParams

        rows_ND = RNG.normal(size=(2, WIDTH)).astype(np.float32)
        engine.llm.reset_prefix_cache()
        branches = [self.soft([9, 280], np.stack([rows_ND[0], row])) for row in (rows_ND[1], -rows_ND[1])]
        shorter = Spliced(branches[0].ids[:270], [9], rows_ND[:1])
        inputs = engine._inputs([*branches, shorter])
        params = PoolingParams(use_activation=False)
        answers = engine._ask("encode", inputs, params, None, pooling_task="embed")
        assert [answer.num_cached_tokens for answer in answers] == [0, 256, 256]


def test_answers_are_as_likely_as_to_the_local_engine(engine: Any, local: Backbone) -> None:
    soft = Spliced(PROMPTS[1], [4], RNG.normal(size=(1, WIDTH)).astype(np.float32))
    answers = [[[5, 6, 7], [5, 6, 8, 9], [10]], [[5, 6, 7], [11, 2]]]
    found = engine.log_likelihoods([soft, PROMPTS[0]], answers)
    expected = LocalEngine(local).log_likelihoods([soft, PROMPTS[0]], answers)
    for found_A, expected_A in zip(found, expected, strict=True):
        np.testing.assert_allclose(found_A, expected_A, atol=1e-3)


class TestAdapters:
    def test_an_adapter_by_name_and_the_bare_model_beside_it(self, engine: Any, local: Backbone) -> None:
        adapted, weights = lora(local, seed=1)
        engine.load_adapter("one@1", weights, alpha=12)
        bare = engine.label_logits(PROMPTS, LABELS).logits_BK
        found = engine.label_logits(PROMPTS, LABELS, "one@1").logits_BK
        np.testing.assert_allclose(found, LocalEngine(adapted).label_logits(PROMPTS, LABELS).logits_BK, atol=2e-3)
        assert float(np.abs(found - bare).max()) > 0.5
        np.testing.assert_allclose(engine.label_logits(PROMPTS, LABELS).logits_BK, bare, atol=1e-3)

    def test_an_adapter_hears_vectors_among_tokens(self, engine: Any, local: Backbone) -> None:
        """vLLM's kernel for adapted embeddings fails on them, so the embeddings are left out."""
        adapted, weights = lora(local, seed=5)
        engine.load_adapter("soft@1", weights, alpha=12)
        asked = [Spliced(PROMPTS[1], [7, 200], RNG.normal(size=(2, WIDTH)).astype(np.float32)), PROMPTS[0]]
        found, expected = engine.label_logits(asked, LABELS, "soft@1"), LocalEngine(adapted).label_logits(asked, LABELS)
        np.testing.assert_allclose(found.logits_BK, expected.logits_BK, atol=2e-3)

    def test_a_new_version_under_a_new_name_answers_nothing_stale(self, engine: Any, local: Backbone) -> None:
        """The prompt of 300 tokens is in the prefix cache under the old version."""
        (_, old), (adapted, new) = lora(local, seed=2), lora(local, seed=3)
        engine.load_adapter("two@1", old, alpha=12)
        before = engine.label_logits(PROMPTS, LABELS, "two@1").logits_BK
        engine.load_adapter("two@2", new, alpha=12)
        engine.unload_adapter("two@1")
        after = engine.label_logits(PROMPTS, LABELS, "two@2").logits_BK
        np.testing.assert_allclose(after, LocalEngine(adapted).label_logits(PROMPTS, LABELS).logits_BK, atol=2e-3)
        assert float(np.abs(after - before).max()) > 0.5

    def test_what_was_read_is_not_kept_on_the_disk(self, engine: Any, local: Backbone) -> None:
        kept = {path.name for path in engine.path.iterdir()}
        engine.load_adapter("passing@1", lora(local, seed=5)[1], alpha=12)
        [folder] = {path.name for path in engine.path.iterdir()} - kept
        assert list((engine.path / folder).iterdir())
        engine.unload_adapter("passing@1")
        assert {path.name for path in engine.path.iterdir()} == kept
        assert list((engine.path / "model").glob("*.safetensors")) == []

    def test_a_name_is_never_given_twice_nor_asked_for_unloaded(self, engine: Any, local: Backbone) -> None:
        _, weights = lora(local, seed=4)
        engine.load_adapter("three@1", weights, alpha=12)
        with pytest.raises(BadInput, match=r"three@1.*another name"):
            engine.load_adapter("three@1", weights, alpha=12)
        engine.unload_adapter("three@1")
        with pytest.raises(BadInput, match=r"three@1.*not loaded"):
            engine.label_logits([[5]], LABELS, "three@1")
        with pytest.raises(BadInput, match=r"three@1.*another name"):
            engine.load_adapter("three@1", weights, alpha=12)


class TestOtherReadings:
    def test_given_tokens_logprobs_bring_all_20_labels_and_their_mass(self, folder: Path, local: Backbone) -> None:
        from ranker.engines.vllm_engine import Logprobs, VllmConfig

        expected = LocalEngine(local).label_logits(PROMPTS, LABELS)
        engine = Logprobs(loaded(folder), VllmConfig(eager=True))
        found = engine.label_logits(PROMPTS, LABELS)
        engine.close()
        assert found.logits_BK.shape == (len(PROMPTS), 20)
        for found_K, expected_K in zip(found.logits_BK, expected.logits_BK, strict=True):
            np.testing.assert_allclose(log_softmax(found_K), log_softmax(expected_K), atol=1e-3)
        np.testing.assert_allclose(found.mass_B, expected.mass_B, atol=1e-5)

    def test_a_head_of_20_rows_gives_the_raw_logits_and_knows_no_mass(self, folder: Path, local: Backbone) -> None:
        from ranker.engines.vllm_engine import LabelHead, VllmConfig

        engine = LabelHead(loaded(folder), LABELS, VllmConfig(eager=True))
        found = engine.label_logits(PROMPTS, LABELS)
        with pytest.raises(BadInput, match="was started for"):
            engine.label_logits(PROMPTS, LABELS[::-1])
        engine.close()
        expected = LocalEngine(local).label_logits(PROMPTS, LABELS)
        np.testing.assert_allclose(found.logits_BK, expected.logits_BK, atol=1e-3)
        assert np.isnan(found.mass_B).all()


class TestRankers:
    METHODS = ("llamarec", "collm", "llara", "cllm4rec")

    @pytest.fixture(scope="class")
    def artifacts(self, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
        tokenizer = tiny.bpe([*tiny.corpus(), *["Answer: Yes", "Answer: No"] * 20])
        out = tmp_path_factory.mktemp("artifacts")
        wide = tiny.save(out / "backbone", tokenizer, tiny.llama(len(tokenizer), hidden=WIDTH))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
            for name, made in zip(self.METHODS, (tiny, collm, llara, cllm4rec), strict=True):
                made.trained(out / name, wide)
        return {name: out / name for name in self.METHODS}

    def scores(self, loaded: LoadedRanker) -> dict[int, float]:
        """Of the language model alone, best first."""
        loaded.self_test()
        loaded.ranker.weight = 1.0  # type: ignore[attr-defined]
        given = [Candidate(item, float(30 - item)) for item in range(11, 31)]
        [ranking] = loaded.ranker.rank([History((3, 4, 5), "u1")], [given])
        return {candidate.item: candidate.score for candidate in ranking.candidates}

    def test_all_four_rank_over_one_vllm_as_they_do_over_the_local_engine(self, artifacts: dict[str, Path]) -> None:
        pool = Pool(VLLM)
        loaded = [load(folder, tiny.DATA.catalog, device=VLLM, pool=pool) for folder in artifacts.values()]
        assert len(pool.engines) == 1
        for one, folder in zip(loaded, artifacts.values(), strict=True):
            expected = self.scores(load(folder, tiny.DATA.catalog, device="cpu"))
            found = self.scores(one)
            assert list(found) == list(expected)
            assert found == pytest.approx(expected, abs=2e-3)

    def test_a_ranker_alone_runs_merged(self, artifacts: dict[str, Path]) -> None:
        alone = load(artifacts["llamarec"], tiny.DATA.catalog, device=VLLM)
        assert not alone.ranker.engine.config.adapters  # type: ignore[attr-defined]
        found = self.scores(alone)
        alone.ranker.engine.close()  # type: ignore[attr-defined]
        assert found == pytest.approx(
            self.scores(load(artifacts["llamarec"], tiny.DATA.catalog, device="cpu")), abs=2e-3
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.35)])
def test_the_shipped_backbone_says_the_same_within_its_precision(dtype: torch.dtype, tolerance: float) -> None:
    from ranker.engines.vllm_engine import VllmConfig, VllmEngine

    exact = backbone.load(SMOLLM2, device="cpu", dtype=torch.float32)
    builder = PromptBuilder(exact.tokenizer, tiny.catalog(64), "compact", max_history=10)
    prompts = [builder.build(range(1 + n, 11 + n), range(20 + n, 40 + n)) for n in range(4)]
    expected = LocalEngine(exact).label_logits(prompts, builder.labels).logits_BK
    engine = VllmEngine(backbone.load(SMOLLM2, device="cpu", dtype=dtype), VllmConfig(eager=True))
    found = engine.label_logits(prompts, builder.labels)
    engine.close()
    assert found.logits_BK.shape == (4, len(LETTERS))
    for found_K, expected_K in zip(found.logits_BK, expected, strict=True):
        np.testing.assert_allclose(log_softmax(found_K), log_softmax(expected_K), atol=tolerance)
        apart_KK = expected_K[:, None] - expected_K[None, :] > 2 * tolerance
        assert apart_KK.sum() > 20
        assert (found_K[:, None] > found_K[None, :])[apart_KK].all()


def test_in_a_process_of_its_own_whose_death_is_told(folder: Path, local: Backbone, monkeypatch: Any) -> None:
    """As it serves."""
    import psutil

    from ranker.engines.vllm_engine import VllmConfig, VllmEngine

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    engine = VllmEngine(loaded(folder), VllmConfig(eager=True))
    expected = LocalEngine(local).label_logits(PROMPTS, LABELS).logits_BK
    np.testing.assert_allclose(engine.label_logits(PROMPTS, LABELS).logits_BK, expected, atol=1e-3)
    for child in psutil.Process().children(recursive=True):
        if "VLLM" in child.name() or "VLLM" in " ".join(child.cmdline()):
            child.kill()
    with pytest.raises(Unavailable, match="died"):
        engine.label_logits(PROMPTS, LABELS)
    engine.close()
