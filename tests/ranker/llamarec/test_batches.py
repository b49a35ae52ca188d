"""Training examples: fair questions, each with its answer in it, the same ones after an interruption."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest

from ranker.backbone import Backbone
from ranker.labels import LETTERS
from ranker.llamarec.batches import BLOCK, Example, Prefix, binding_examples, examples, prefixes
from ranker.llamarec.model import LlamaRecConfig
from ranker.prompt import PromptBuilder
from shared.history import History
from tests.ranker import tiny

ITEMS = 60
CONFIG = LlamaRecConfig(history=5, seed=3)
HARD = replace(CONFIG, negatives="hard", targets=3, teacher=0.3)
KINDS: list[dict[str, Any]] = [
    {},
    {"negatives": "hard"},
    {"negatives": "mixed", "targets": 3},
    {"negatives": "retrieved", "targets": 4},
    {"negatives": "hard", "targets": 3, "teacher": 0.3},
    {"candidates": 7, "teacher": 1.0},
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


@pytest.fixture(scope="module")
def builder(bpe: Backbone) -> PromptBuilder:
    return PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "compact", max_history=5)


def sequences(users: int = 12, length: int = 14, seed: int = 0) -> list[np.ndarray]:
    """At random with repeats, which are what trips a negative sampler."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, ITEMS + 1, size=length) for _ in range(users)]


def make(builder: PromptBuilder, config: LlamaRecConfig, first: int = 0, **data: int) -> list[Example]:
    drawn = sequences(**data)
    return list(examples(drawn, prefixes(drawn), builder, tiny.Neighbours(ITEMS), ITEMS, config, first))


def asked(example: Example) -> Prefix:
    return prefixes(sequences())[example.position]


def listed(builder: PromptBuilder, example: Example) -> list[int]:
    """The candidates, read back from the prompt line by line."""
    by_title = {tuple(title): item for item, title in enumerate(builder.titles)}
    pool = builder.pool
    start = next(at for at in range(len(example.prompt)) if example.prompt[at : at + len(pool)] == pool) + len(pool)
    found = []
    for (before, after), end in zip(builder.candidate_lines, example.ends, strict=False):
        found.append(by_title[tuple(example.prompt[start + len(before) : end + 1 - len(after)])])
        start = end + 1
    return found


def test_every_prefix_of_two_or_more_items_asks_for_what_came_next() -> None:
    assert prefixes([np.arange(5), np.arange(2), np.arange(3)]) == [
        Prefix(0, 2),
        Prefix(0, 3),
        Prefix(0, 4),
        Prefix(2, 2),
    ]


@each_kind
def test_the_truth_is_among_distinct_candidates_and_no_item_of_the_history_is_wrong(
    builder: PromptBuilder, kind: dict[str, Any]
) -> None:
    config, drawn = replace(CONFIG, **kind), sequences()
    made = make(builder, config)
    assert made
    for example in made:
        prefix, candidates = asked(example), listed(builder, example)
        history = set(drawn[prefix.user][: prefix.length].tolist())
        following = drawn[prefix.user][prefix.length : prefix.length + config.targets].tolist()
        assert len(set(candidates)) == len(candidates) == config.candidates
        assert not (set(candidates) - set(following)) & history
        assert set(candidates) & set(following)
        if config.negatives != "retrieved":
            assert following[0] in candidates


@each_kind
def test_targets_are_shares_that_sum_to_one_and_favour_the_truth(builder: PromptBuilder, kind: dict[str, Any]) -> None:
    config, drawn = replace(CONFIG, **kind), sequences()
    for example in make(builder, config):
        prefix, candidates = asked(example), listed(builder, example)
        following = drawn[prefix.user][prefix.length : prefix.length + config.targets].tolist()
        right = [place for place, item in enumerate(candidates) if item in following]
        assert example.target_K.shape == (config.candidates,)
        assert example.target_K.sum() == pytest.approx(1, abs=1e-5)
        assert (example.target_K >= 0).all()
        if config.teacher < 1:
            assert example.target_K[right].min() >= (1 - config.teacher) / len(right) - 1e-6


def test_without_a_teacher_the_right_ones_share_the_target_equally(builder: PromptBuilder) -> None:
    for example in make(builder, replace(CONFIG, targets=3)):
        shares = example.target_K[example.target_K > 0]
        assert shares == pytest.approx(1 / len(shares))
        assert 1 <= len(shares) <= 3


def test_a_teacher_alone_is_the_retrievers_softmax_over_the_candidates(builder: PromptBuilder) -> None:
    config, drawn = replace(CONFIG, negatives="hard", teacher=1.0), sequences()
    for example in islice(make(builder, config), 20):
        prefix = asked(example)
        history = History(tuple(drawn[prefix.user][: prefix.length].tolist()))
        [found] = tiny.Neighbours(ITEMS).retrieve([history], 30, [history.items])
        scores = {c.item: c.score for c in found}
        raw = np.exp([scores.get(item, min(scores.values())) for item in listed(builder, example)])
        np.testing.assert_allclose(example.target_K, raw / raw.sum(), atol=1e-6)


def test_hard_negatives_are_the_retrievers_best_and_uniform_ones_are_not(builder: PromptBuilder) -> None:
    def share(config: LlamaRecConfig) -> float:
        drawn, hits, total = sequences(), 0, 0
        for example in make(builder, config):
            prefix = asked(example)
            history = History(tuple(drawn[prefix.user][: prefix.length].tolist()))
            [best] = tiny.Neighbours(ITEMS).retrieve([history], 20, [history.items])
            hits += len({c.item for c in best} & set(listed(builder, example)))
            total += 20
        return hits / total

    uniform, mixed, hard = (share(replace(CONFIG, negatives=kind)) for kind in ("uniform", "mixed", "hard"))  # type: ignore[arg-type]
    assert hard >= 0.94
    assert uniform < 0.5 < mixed < hard


def test_the_history_in_the_prompt_is_the_users_most_recent(builder: PromptBuilder) -> None:
    drawn = sequences()
    for example in islice(make(builder, CONFIG), 30):
        prefix = asked(example)
        history = drawn[prefix.user][: prefix.length].tolist()
        assert example.prompt == builder.build(history, listed(builder, example))


@each_kind
def test_an_example_does_not_depend_on_where_the_stream_starts(builder: PromptBuilder, kind: dict[str, Any]) -> None:
    """Past one block of the retriever too."""
    config, data = replace(CONFIG, binding_prompts=5, **kind), {"users": 30, "length": 12}
    whole = make(builder, config, **data)
    assert whole[-1].position > BLOCK
    for first in (1, 100, BLOCK, BLOCK + 7):
        rest = [example for example in whole if example.position >= config.binding_prompts + first]
        for expected, example in zip(rest, make(builder, config, first, **data), strict=True):
            assert (example.position, example.prompt) == (expected.position, expected.prompt)
            assert np.array_equal(example.target_K, expected.target_K)


def test_what_comes_next_is_never_what_the_user_has() -> None:
    drawn = sequences()
    every = prefixes(drawn)
    assert 0 < len(every) < sum(len(s) - 2 for s in drawn)
    assert all(drawn[p.user][p.length] not in drawn[p.user][: p.length] for p in every)


@pytest.mark.parametrize("negatives", ["uniform", "hard", "mixed"])
def test_the_truth_stands_at_every_place_alike(builder: PromptBuilder, negatives: str) -> None:
    """Chi-square over 20 places; 43.8 is exceeded by chance once in a thousand seeds, and this seed is fixed."""
    config = replace(CONFIG, negatives=negatives)  # type: ignore[arg-type]
    places = [int(example.target_K.argmax()) for example in make(builder, config, users=60, length=22)]
    counts = np.bincount(places, minlength=20)
    expected = len(places) / 20
    assert len(places) > 900
    assert float(((counts - expected) ** 2 / expected).sum()) < 43.8


def test_another_seed_asks_otherwise(builder: PromptBuilder) -> None:
    one, other = (make(builder, replace(CONFIG, seed=seed)) for seed in (1, 2))
    assert sum(a.prompt == b.prompt for a, b in zip(one, other, strict=True)) < len(one) / 10


def test_a_catalogue_smaller_than_the_list_gives_shorter_lists(bpe: Backbone) -> None:
    builder = PromptBuilder(bpe.tokenizer, tiny.catalog(8), "compact", max_history=5)
    drawn = [np.array([1, 2, 3, 4])]
    made = list(examples(drawn, prefixes(drawn), builder, tiny.Neighbours(8), 8, HARD))
    for example in made:
        history = {1, 2, 3} if example.position else {1, 2}
        candidates = listed(builder, example)
        assert set(candidates) == set(range(1, 9)) - (history - {4})
        assert not example.target_K[len(candidates) :].any()


def test_as_served_the_candidates_are_the_retrievers_and_unanswerable_prompts_are_left_out(
    builder: PromptBuilder,
) -> None:
    config, drawn = replace(CONFIG, negatives="retrieved"), sequences()
    made = make(builder, config)
    assert len(made) < len(prefixes(drawn))
    for example in made:
        prefix = asked(example)
        history = History(tuple(drawn[prefix.user][: prefix.length].tolist()))
        [best] = tiny.Neighbours(ITEMS).retrieve([history], 20, [history.items])
        assert sorted(listed(builder, example)) == sorted(c.item for c in best)
    answerable = {example.position for example in made}
    assert [e.position for e in made] == sorted(answerable)


def test_the_copy_task_asks_for_the_label_of_one_of_its_titles(bpe: Backbone, builder: PromptBuilder) -> None:
    config = replace(CONFIG, binding_prompts=40)
    made = list(binding_examples(builder, ITEMS, config))
    assert [example.position for example in made] == list(range(40))
    titles = tiny.titles(ITEMS)
    for example in made:
        text = bpe.tokenizer.decode(example.prompt, skip_special_tokens=True)
        *lines, _, cue = text.strip().split("\n")
        title = cue.removesuffix(" ->")
        letter = LETTERS[int(example.target_K.argmax())]
        assert title in titles
        assert f"{title} -> {letter}" in lines
        assert example.target_K.sum() == 1
    assert [e.prompt for e in binding_examples(builder, ITEMS, config, first=30)] == [e.prompt for e in made[30:]]
