"""A history item by item, from what is kept of it, is the history in one go."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.incremental import Encoder
from retriever.lrurec import LRURec, LRURecConfig
from retriever.retrieve import LRURecRetriever, build_index
from retriever.states import States
from shared.history import History
from shared.protocols import Retriever
from tests.contracts.retriever import RetrieverContract

ITEMS, WINDOW = 30, 12
LARGE = 1 << 20
SMALL = 3_000
"""Room for some eight states: most are gone when they would be needed."""
EXACT = 1e-5
seeded = settings(derandomize=True, deadline=None, max_examples=60)
EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, ITEMS), st.integers(1, 11)), min_size=1, max_size=60)
"""A user, the item that he takes, and how often he takes it before he asks."""


def model(**config: int) -> LRURec:
    torch.manual_seed(0)
    made = LRURec(LRURecConfig(items=ITEMS, width=16, state=8, **config)).eval()
    with torch.no_grad():
        for weight in made.parameters():  # as large as trained ones: with the initial 0.02 every error would be small
            weight.add_(0.3 * torch.randn_like(weight))
        made.embedding.weight[0] = 0
    return made


MODEL = model()


def remembering(max_bytes: int = LARGE, window: int = WINDOW) -> tuple[LRURecRetriever, Counter[str]]:
    outcomes: Counter[str] = Counter()
    retriever = LRURecRetriever(MODEL, build_index(MODEL), window)
    retriever.remember(States("v", max_bytes, lambda outcome: outcomes.update([outcome])))
    return retriever, outcomes


PLAIN = LRURecRetriever(MODEL, build_index(MODEL), WINDOW)


class TestRemembering(RetrieverContract):
    items = ITEMS

    @pytest.fixture
    def retriever(self) -> Retriever:
        return remembering()[0]


@given(EVENTS, st.sampled_from([LARGE, SMALL, 0]))
@seeded
def test_any_order_of_events_gives_what_the_whole_history_gives(
    events: list[tuple[int, int, int]], max_bytes: int
) -> None:
    retriever, _ = remembering(max_bytes)
    histories: dict[int, list[int]] = {}
    for user, item, times in events:
        history = histories.setdefault(user, [])
        history.extend((item + n) % ITEMS + 1 for n in range(times))
        np.testing.assert_allclose(retriever.encode([history]), PLAIN.encode([history]), atol=EXACT)


@given(st.lists(st.lists(st.integers(1, ITEMS), max_size=20), max_size=8))
@seeded
def test_a_batch_of_known_grown_and_new_users_is_each_of_them(histories: list[list[int]]) -> None:
    retriever, _ = remembering()
    retriever.encode([history[:-n] for n, history in enumerate(histories[::2], start=1)])
    np.testing.assert_allclose(retriever.encode(histories), PLAIN.encode(histories), atol=EXACT)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_history_in_one_go_is_the_models_own(blocks: int) -> None:
    other = model(blocks=blocks)
    items = np.random.default_rng(0).integers(1, ITEMS, size=200)
    state = Encoder(other).whole(items)
    stepped = other.initial_state(1)
    with torch.inference_mode():
        for item in items:
            stepped, user_BD = other.step(stepped, torch.tensor([item]))
        np.testing.assert_allclose(state.user_D, other.last(torch.from_numpy(items)[None])[0], atol=EXACT)
    np.testing.assert_allclose(state.user_D, user_BD[0], atol=EXACT)
    np.testing.assert_allclose(state.blocks_NH, stepped[0], atol=1e-4)


def test_one_more_item_is_one_step_and_the_same_history_none() -> None:
    retriever, outcomes = remembering()
    for history in ([1, 2, 3], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6], [2, 2, 3]):
        retriever.encode([history])
    assert outcomes == {"whole": 2, "known": 1, "advanced": 2}


def test_beyond_the_window_the_first_items_count_no_more() -> None:
    retriever, outcomes = remembering()
    history = [n % ITEMS + 1 for n in range(WINDOW + 3)]
    for stop in range(WINDOW - 1, len(history) + 1):
        users_BD = retriever.encode([history[:stop]])
        np.testing.assert_allclose(users_BD, PLAIN.encode([history[:stop]]), atol=EXACT)
    assert outcomes == {"whole": 4, "advanced": 1}


def test_what_is_no_state_of_this_model_counts_as_not_known() -> None:
    states = States("v", LARGE)
    items = np.array([1, 2, 3])
    encoder = Encoder(MODEL)
    good = encoder.whole(items).to_bytes()
    assert encoder.from_bytes(good) is not None
    nan = np.full(len(good) // 4, np.nan, dtype=np.float32).tobytes()
    for bad in (b"", good[:-4], good + b"1234", nan):
        states.keep(states.keys(items)[0], bad, len(items))
        np.testing.assert_allclose(encoder.encode([items], states), PLAIN.encode([items]), atol=EXACT)
        assert states.nearest([items])[0].state == good


def test_the_answer_is_that_of_a_retriever_without_memory() -> None:
    retriever, _ = remembering()
    history = History((4, 9, 2))
    retriever.retrieve([History(history.items[:2])], 5)
    [one], [other] = retriever.retrieve([history], 5), PLAIN.retrieve([history], 5)
    assert [c.item for c in one] == [c.item for c in other]
    assert [c.score for c in one] == pytest.approx([c.score for c in other], abs=1e-4)
