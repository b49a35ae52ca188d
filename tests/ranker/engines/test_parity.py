"""One contract over all engines: what transformers' own forward says in float32. vLLM's turn comes where it is
installed (make test-vllm)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ranker import backbone
from ranker.backbone import Backbone
from ranker.engines.local import LocalEngine
from ranker.engines.protocol import Engine, Spliced
from shared.errors import BadInput

LABELS = [40, 7, 300, 41, 12]
LENGTHS = (1, 7, 60, 33, 33, 48)


def started(name: str, folder: str) -> Engine:
    base = backbone.load(folder, dtype=torch.float32)
    if name == "local":
        return LocalEngine(base)
    if find_spec("vllm") is None:
        pytest.skip("vLLM has an environment of its own: make test-vllm")
    from ranker.engines.vllm_engine import VllmConfig, VllmEngine

    return VllmEngine(base, VllmConfig(max_tokens=128, cache_bytes=2**26, eager=True))


@pytest.fixture(scope="module", params=["local", "vllm"])
def engine(request: pytest.FixtureRequest, bpe_folder: object) -> Iterator[Engine]:
    made = started(request.param, str(bpe_folder))
    yield made
    made.close()


def prompts() -> list[list[int]]:
    """The last three begin alike."""
    rng = np.random.default_rng(0)
    made = [rng.integers(4, 400, size=length).tolist() for length in LENGTHS]
    return [*made[:3], *(made[5][:40] + prompt[:6] for prompt in made[3:])]


def soft() -> list[Spliced]:
    rng = np.random.default_rng(1)
    ids = [0 if place in (2, 20) else token for place, token in enumerate(rng.integers(4, 400, size=30).tolist())]
    return [Spliced(ids, [2, 20], 0.2 * rng.normal(size=(2, 64)).astype(np.float32)) for _ in range(2)]


@torch.no_grad()
def plain(base: Backbone, prompt: list[int] | Spliced) -> torch.Tensor:
    table = base.model.get_input_embeddings()
    embeds_TD = table(torch.tensor(prompt.ids if isinstance(prompt, Spliced) else prompt)).clone()
    if isinstance(prompt, Spliced):
        embeds_TD[list(prompt.places)] = torch.from_numpy(prompt.rows_ND)
    return base.model.model(inputs_embeds=embeds_TD[None]).last_hidden_state[0, -1]


def test_it_is_an_engine(engine: Engine) -> None:
    assert isinstance(engine, Engine)


def test_labels_and_their_mass_are_those_of_a_plain_forward(engine: Engine, bpe: Backbone) -> None:
    found = engine.label_logits(prompts(), LABELS)
    for prompt, logits_K, mass in zip(prompts(), found.logits_BK, found.mass_B, strict=True):
        logits_V = bpe.model.lm_head(plain(bpe, prompt)).detach()
        np.testing.assert_allclose(logits_K, logits_V[LABELS].numpy(), atol=1e-3)
        assert np.isnan(mass) or mass == pytest.approx(float(torch.softmax(logits_V, 0)[LABELS].sum()), abs=1e-4)


def test_states_are_those_of_a_plain_forward(engine: Engine, bpe: Backbone) -> None:
    found_BD = engine.last_hidden(prompts())
    assert found_BD.dtype == np.float32
    np.testing.assert_allclose(found_BD, torch.stack([plain(bpe, p) for p in prompts()]).numpy(), atol=1e-3)


def test_vectors_stand_where_they_were_put(engine: Engine, bpe: Backbone) -> None:
    for _ in range(2):  # the second time out of whatever cache there is
        found_BD = engine.last_hidden(soft())
        np.testing.assert_allclose(found_BD, torch.stack([plain(bpe, p) for p in soft()]).numpy(), atol=1e-3)
    assert np.abs(found_BD[0] - found_BD[1]).max() > 0.01


def test_asking_to_keep_a_prefix_changes_no_answer(engine: Engine) -> None:
    first = engine.label_logits(prompts(), LABELS, keep=[len(p) // 2 for p in prompts()]).logits_BK
    again = engine.label_logits(prompts(), LABELS, keep=[len(p) // 2 for p in prompts()]).logits_BK
    np.testing.assert_allclose(first, engine.label_logits(prompts(), LABELS).logits_BK, atol=1e-4)
    np.testing.assert_allclose(first, again, atol=1e-4)


def test_a_name_that_is_not_loaded_is_refused(engine: Engine) -> None:
    with pytest.raises(BadInput, match="'nobody' is not loaded"):
        engine.label_logits([[5, 6]], LABELS, adapter="nobody")


def test_a_prompt_that_is_empty_is_refused(engine: Engine) -> None:
    with pytest.raises(BadInput, match="a prompt of 0 tokens"):
        engine.label_logits([[]], LABELS)
