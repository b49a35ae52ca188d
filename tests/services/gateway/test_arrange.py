"""From a ranked list to an answer's items: filters, diversity, promotions; each against what its words promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.arrange import Placed, allowed, diversified, ordered, promoted
from services.gateway.people import Person
from services.gateway.ports import ItemStates
from services.gateway.ranked import RankedList, depth
from shared.wire.inner import RankAnswer, RankedItem, RetrieveAnswer, RetrievedItem, pack
from shared.wire.recommend import ItemMetadata, Promotion, RecommendRequest
from shared.wire.users import ItemState


def person(history: tuple[str, ...] = (), seen: frozenset[str] = frozenset(), **states: ItemState) -> Person:
    return Person("u1", "u1", history, seen, ItemStates(1, states))


def item(name: str, *categories: str) -> RetrievedItem:
    return RetrievedItem(item_id=name, score=0.0, metadata=ItemMetadata(title=name, categories=list(categories)))


def placed(*names: str) -> list[Placed]:
    return [Placed(RetrievedItem(item_id=name, score=0.0), 0.0, "retrieval") for name in names]


def names(order: list[Placed]) -> list[str]:
    return [one.item.item_id for one in order]


def asked(**fields: object) -> RecommendRequest:
    return RecommendRequest.model_validate({"user_id": "u1"} | fields)


@pytest.mark.parametrize(
    ("who", "request_", "fits"),
    [
        (person(), asked(), True),
        (person(history=("a",)), asked(), False),
        (person(seen=frozenset("a")), asked(), False),
        (person(), asked(exclude_item_ids=["a"]), False),
        (person(a=ItemState(hidden=True)), asked(), False),
        (person(a=ItemState(hidden=True)), asked(filter={"availability": "any"}), False),
        (person(a=ItemState(available=False)), asked(), False),
        (person(a=ItemState(available=False)), asked(filter={"availability": "any"}), True),
        (person(), asked(filter={"categories": ["Drama"]}), True),
        (person(), asked(filter={"categories": ["Horror"]}), False),
        (person(a=ItemState(categories=["Horror"])), asked(filter={"categories": ["Horror"]}), True),
        (person(a=ItemState(categories=["Horror"])), asked(filter={"categories": ["Drama"]}), False),
        (person(a=ItemState(categories=[])), asked(filter={"categories": ["Drama"]}), False),
    ],
)
def test_what_may_be_shown(who: Person, request_: RecommendRequest, fits: bool) -> None:
    assert allowed(who, request_)(item("a", "Drama", "War")) is fits


def ranked_list(found: str, ranked: str | None) -> RankedList:
    answer = RetrieveAnswer(
        items=[RetrievedItem(item_id=name, score=float(-i)) for i, name in enumerate(found)],
        source="retrieval",
        missing_ids=[],
        model="m@1",
        catalog="c",
        elapsed_ms=0.0,
    )
    order = ranked and RankAnswer(
        items=[RankedItem(item_id=name, score=1.0) for name in ranked],
        model="llamarec@1",
        ranker="llamarec",
        label_mass=1.0,
        entropy=0.0,
        queue_ms=0.0,
        rank_ms=0.0,
    )
    return RankedList(found=answer, ranked=order or None, rung="ranker" if ranked else "retrieval", asked=len(found))


def test_the_ranker_orders_the_head_and_the_retriever_the_tail() -> None:
    order = ordered(ranked_list("abcde", "cab"), confident=True)
    assert names(order) == list("cabde")
    assert [one.source for one in order] == ["llamarec"] * 3 + ["retrieval"] * 2


def test_without_confidence_the_retriever_orders_all() -> None:
    order = ordered(ranked_list("abcde", "cab"), confident=False)
    assert names(order) == list("abcde")
    assert {one.source for one in order} == {"retrieval"}


def vectored(*vectors: list[float]) -> list[Placed]:
    found = []
    for i, vector in enumerate(vectors):
        unit = np.array(vector) / np.linalg.norm(vector)
        found.append(Placed(RetrievedItem(item_id=f"v{i}", score=0.0, vector=pack(unit)), 0.0, "retrieval"))
    return found


def test_diversity_by_hand() -> None:
    """Relevance 1, 2/3, 1/3, 0; v1 is v0's twin and v2 unlike both: at lambda .5 the twin's worth after v0 is
    .5 * 2/3 - .5 * 1 = -.17, v2's .5 * 1/3 - 0 = .17."""
    order = vectored([1, 0], [1, 0], [0, 1], [1, 1])
    assert names(diversified(order, 0.5, 4))[:2] == ["v0", "v2"]
    assert names(diversified(order, 0.0, 4)) == ["v0", "v1", "v2", "v3"]


def reference_mmr(order: list[Placed], vectors: np.ndarray, weight: float) -> list[str]:
    left, chosen = list(range(len(order))), []
    relevance = [1 - i / (len(order) - 1) for i in left]
    while left:
        best = max(
            left,
            key=lambda i: (
                (1 - weight) * relevance[i] - weight * max((float(vectors[i] @ vectors[j]) for j in chosen), default=0),
                -i,
            ),
        )
        chosen.append(best)
        left.remove(best)
    return [order[i].item.item_id for i in chosen]


@given(st.integers(2, 12), st.floats(0.05, 1.0), st.integers(0, 2**32 - 1))
def test_diversity_is_carbonell_and_goldsteins(count: int, weight: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = vectored(*rng.normal(size=(count, 5)).tolist())
    from shared.wire.inner import unpack

    vectors = unpack([one.item.vector or "" for one in order]).astype(np.float64)
    assert names(diversified(order, weight, count)) == reference_mmr(order, vectors, weight)


@given(st.floats(0, 1), st.integers(1, 6))
def test_diversity_loses_nothing(weight: float, limit: int) -> None:
    order = vectored([1, 0], [0.9, 0.1], [0, 1], [-1, 0], [0.5, 0.5])
    assert sorted(names(diversified(order, weight, limit))) == sorted(names(order))


def test_items_without_vectors_keep_their_order() -> None:
    assert names(diversified(placed("a", "b", "c"), 0.7, 3)) == ["a", "b", "c"]


def promotion(*ids: str, **where: float) -> Promotion:
    return Promotion.model_validate({"item_ids": list(ids)} | where)


def test_a_promoted_item_stands_at_its_place() -> None:
    order = promoted(placed(*"abcd"), [promotion("x", position=2)], placed("x"), 4)
    assert names(order)[:4] == ["a", "x", "b", "c"]
    assert order[1].source == "promotion"


def test_what_may_not_be_shown_is_passed_over() -> None:
    assert names(promoted(placed(*"abc"), [promotion("x", "y", position=1)], placed("y"), 3))[:3] == ["y", "a", "b"]
    assert names(promoted(placed(*"abc"), [promotion("x", position=1)], [], 3)) == ["a", "b", "c"]


def test_a_share_is_spread_evenly() -> None:
    order = promoted(placed(*"abcdefghij"), [promotion("x", "y", share=0.2)], placed("x", "y"), 10)
    assert [i for i, one in enumerate(order[:10], start=1) if one.source == "promotion"] == [3, 8]


@given(
    st.lists(st.sampled_from("abcdefgh"), unique=True),
    st.lists(
        st.builds(
            lambda ids, position, share: promotion(*ids, **({"position": position} if position else {"share": share})),
            st.lists(st.sampled_from("abcxyz"), min_size=1, max_size=4),
            st.one_of(st.none(), st.integers(1, 8)),
            st.floats(0.01, 1),
        ),
        max_size=4,
    ),
    st.integers(1, 8),
)
def test_promotions_repeat_nothing_and_lose_nothing(order: list[str], asked_: list[Promotion], limit: int) -> None:
    known = {"x", "y", *order}
    found = promoted(placed(*order), asked_, placed(*sorted(known)), limit)
    assert len(set(names(found))) == len(found)
    assert set(order) <= set(names(found)) <= known
    assert len(found) >= min(limit, len(order))
    shares = sum(int((p.share or 0) * limit + 1e-9) for p in asked_)
    positions = sum(p.position is not None for p in asked_)
    assert sum(one.source == "promotion" for one in found) <= shares + positions


@given(st.integers(1, 1000), st.integers(0, 100))
def test_depth_has_room_to_spare(limit: int, spare: int) -> None:
    found = depth(limit, spare, 1020)
    assert found <= 1020
    assert found >= min(max(20, limit) + spare, 1020)
