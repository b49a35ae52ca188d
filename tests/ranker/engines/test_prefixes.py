"""What is computed once and reused gives the scores of whole prompts, and memory stays within its bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ranker.backbone import Backbone
from ranker.engines import local
from ranker.engines.local import LocalEngine, units
from ranker.engines.prefixes import BLOCK, Prefixes, digests
from ranker.engines.protocol import Prompt, Spliced
from ranker.engines.told import in_common, joined, piece

LABELS = [40, 7, 300]
seeded = settings(
    derandomize=True, deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tokens(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(4, 400, size=length).tolist()


def fresh(base: Backbone, prompts: Sequence[Prompt]) -> np.ndarray:
    """Each prompt alone, by an engine that remembers nothing."""
    return np.concatenate([LocalEngine(base, cache_bytes=0).label_logits([p], LABELS).logits_BK for p in prompts])


def test_the_second_request_of_a_user_computes_the_new_tokens_alone(bpe: Backbone) -> None:
    engine = LocalEngine(bpe)
    history = tokens(100, 0)
    first, second = history + tokens(30, 1), history + tokens(40, 2)
    engine.label_logits([first], LABELS, keep=[100])
    before = engine.reuse.computed
    found = engine.label_logits([second], LABELS, keep=[100]).logits_BK
    np.testing.assert_allclose(found, fresh(bpe, [second]), atol=1e-4)
    assert engine.reuse.reused == 100 // BLOCK * BLOCK
    assert engine.reuse.computed - before == 140 - 100 // BLOCK * BLOCK


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 120), st.integers(1, 40), st.integers(0, 9)), min_size=1))
@seeded
def test_whatever_was_asked_before_scores_are_those_of_whole_prompts(
    bpe: Backbone, asked: list[tuple[int, int, int, int]]
) -> None:
    """Users with histories that grow, in a cache that holds a few of them."""
    engine = LocalEngine(bpe, cache_bytes=20_000)
    for user, length, more, seed in asked:
        prompt = tokens(120, user)[:length] + tokens(more, seed)
        found = engine.label_logits([prompt, prompt[: len(prompt) // 2 + 1]], LABELS, keep=[length, length]).logits_BK
        np.testing.assert_allclose(found, fresh(bpe, [prompt, prompt[: len(prompt) // 2 + 1]]), atol=1e-4)
        assert engine.cached_bytes <= 20_000


def test_twenty_prompts_that_begin_alike_are_computed_as_one(bpe: Backbone) -> None:
    engine = LocalEngine(bpe)
    head = tokens(60, 0)
    prompts = [head + tokens(5 + n % 4, n) for n in range(1, 21)]
    found = engine.label_logits(prompts, LABELS).logits_BK
    np.testing.assert_allclose(found, fresh(bpe, prompts), atol=1e-4)
    distinct = 60 + sum(len(prompt) - 60 for prompt in prompts)
    assert distinct - 20 <= engine.reuse.computed <= distinct


def test_other_vectors_at_the_same_place_are_another_prefix(bpe: Backbone) -> None:
    engine = LocalEngine(bpe)
    rng = np.random.default_rng(0)
    history, cue = tokens(40, 0), tokens(9, 1)
    one, other = (Spliced(history + cue, [3, 17], 0.3 * rng.normal(size=(2, 64)).astype(np.float32)) for _ in range(2))
    engine.label_logits([one], LABELS, keep=[40])
    for prompt in (one, other, history + cue):
        np.testing.assert_allclose(
            engine.label_logits([prompt], LABELS, keep=[40]).logits_BK, fresh(bpe, [prompt]), atol=1e-4
        )
    assert np.abs(fresh(bpe, [one]) - fresh(bpe, [other])).max() > 0.01


def test_a_digest_tells_tokens_places_and_vectors_apart() -> None:
    ids, rows = tokens(BLOCK, 0), np.ones((1, 4), dtype=np.float32)
    prompts = [
        ids,
        [*ids[:-1], 3],
        Spliced(ids, [2], rows),
        Spliced(ids, [3], rows),
        Spliced(ids, [2], 2 * rows),
    ]
    assert len({digests(prompt, BLOCK)[0] for prompt in prompts}) == len(prompts)
    assert digests(ids, BLOCK - 1) == []


def test_of_a_prefix_that_was_found_the_first_block_is_the_last_to_go() -> None:
    """Without it the others are nothing."""
    block = torch.zeros(1, 2, BLOCK, 1, 4)
    kept, names = Prefixes(3 * block.nbytes), [b"a", b"b", b"c"]
    kept.put(names, torch.cat([block] * 3, dim=2), 0)
    assert len(kept.find(names)) == 3
    kept.put([b"other"], block, 0)
    assert len(kept.find(names)) == 2


def test_an_adapter_never_answers_out_of_anothers_cache(bpe: Backbone) -> None:
    import torch

    from ranker.fit import add_lora

    tree = bpe.shared()
    wrapped = add_lora(tree.model, rank=2, alpha=8, dropout=0.0, targets=("q_proj", "v_proj"))
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    engine = LocalEngine(bpe, {"a": tree})
    prompt = tokens(50, 0)
    engine.label_logits([prompt], LABELS, keep=[40])
    found = engine.label_logits([prompt], LABELS, adapter="a", keep=[40]).logits_BK
    np.testing.assert_allclose(found, fresh(tree, [prompt]), atol=1e-4)
    assert np.abs(found - fresh(bpe, [prompt])).max() > 0.01


def test_likelihoods_are_products_of_next_token_probabilities(bpe: Backbone) -> None:
    import torch

    prompt, answers = tokens(30, 0), [[5, 6, 7], [9], [], [8, 2]]
    [found] = LocalEngine(bpe).log_likelihoods([prompt], [answers])
    for log, answer in zip(found, answers, strict=True):
        with torch.no_grad():
            logits_TV = bpe.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        told = torch.log_softmax(logits_TV, -1)[torch.arange(len(answer)), answer]
        assert log == pytest.approx(float(told.sum()), abs=1e-4)


def test_no_answers_have_no_likelihoods(bpe: Backbone) -> None:
    none, empty = LocalEngine(bpe).log_likelihoods([tokens(30, 0), tokens(5, 1)], [[], [[]]])
    assert (none.tolist(), empty.tolist()) == ([], [0.0])


def test_branches_that_fill_a_forward_begin_another_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "BATCH_TOKENS", 32 + 2 * 20)
    asked = [tokens(32, 0) + tokens(20, n) for n in range(1, 6)]
    assert [len(unit.rows) for unit in units(asked, [0] * 5)] == [2, 2, 1]


def test_what_follows_a_short_beginning_is_no_branch() -> None:
    head = tokens(BLOCK, 0)
    apart = [head + tokens(200, n) for n in (1, 2)]
    assert [len(unit.branches) for unit in units(apart, [0, 0])] == [0, 0]
    near = [head + tokens(20, n) for n in (1, 2)]
    assert [len(unit.branches) for unit in units(near, [0, 0])] == [2]


@given(st.integers(1, 20), st.integers(0, 20), st.data())
@seeded
def test_pieces_join_to_the_whole(length: int, cut: int, data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.integers(0, length - 1))))
    whole = Spliced(tokens(length, 0), places, np.arange(2 * len(places), dtype=np.float32).reshape(-1, 2))
    cut = min(cut, length)
    again = joined(piece(whole, 0, cut), piece(whole, cut))
    assert isinstance(again, Spliced)
    assert (list(again.ids), list(again.places)) == (list(whole.ids), list(whole.places))
    np.testing.assert_array_equal(again.rows_ND, whole.rows_ND)
    assert in_common(whole, whole) == (places[0] if places else length)
