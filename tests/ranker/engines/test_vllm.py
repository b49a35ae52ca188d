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
from ranker.backbone import Backbone
from ranker.blend import log_softmax
from ranker.engines.local import LocalEngine
from ranker.engines.protocol import Engine, Spliced
from ranker.engines.soft import last_states
from ranker.fit import adapter_weights, add_lora
from shared.errors import BadInput
from tests.ranker import tiny

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
