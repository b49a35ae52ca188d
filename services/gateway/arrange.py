"""From a ranked list to the items of one answer: what is allowed, in which order, what is promoted. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np

from services.gateway.people import Person
from services.gateway.ranked import Placed, RankedList
from shared.candidate import Source
from shared.wire.inner import RetrievedItem, unpack
from shared.wire.recommend import Promotion, RecommendRequest

Allowed = Callable[[RetrievedItem], bool]


def allowed(person: Person, request: RecommendRequest) -> Allowed:
    """Not had, not seen, not excluded, not hidden, available, of a wanted category.

    An item state's categories stand in place of the catalogue's. An item of which neither is known fits no filter.
    """
    banned = {*person.history, *person.seen, *request.exclude_item_ids}
    wanted, any_state = set(request.filter.categories), request.filter.availability == "any"

    def fits(item: RetrievedItem) -> bool:
        if item.item_id in banned:
            return False
        state = person.states.of(item.item_id)
        if state and (state.hidden or not (state.available or any_state)):
            return False
        if not wanted:
            return True
        if state and state.categories is not None:
            return not wanted.isdisjoint(state.categories)
        return item.metadata is not None and not wanted.isdisjoint(item.metadata.categories)

    return fits


def ordered(made: RankedList, confident: bool) -> tuple[Placed, ...]:
    """The ranker's order where there is one that is trusted, then the retriever's for the rest."""
    return made.by_ranker if confident else made.by_retriever


def diversified(order: Sequence[Placed], diversity: float, limit: int) -> list[Placed]:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998, equation 1) with lambda = 1 - diversity.

    Relevance falls evenly with the place in `order`, from 1 to 0: scores of different rankers have no common scale.
    Likeness is the cosine of the item vectors. Unchanged where an item has no vector.
    """
    vectors = [one.item.vector for one in order]
    if diversity == 0 or len(order) < 2 or any(vector is None for vector in vectors):
        return list(order)
    items_ND = unpack([vector for vector in vectors if vector is not None])
    relevance_N = np.linspace(1.0, 0.0, len(order))
    likeness_N = np.full(len(order), -1.0)
    left_N = np.ones(len(order), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(limit, len(order))):
        value_N = (1 - diversity) * relevance_N - diversity * (likeness_N if chosen else 0.0)
        best = int(np.argmax(np.where(left_N, value_N, -np.inf)))
        chosen.append(best)
        left_N[best] = False
        likeness_N = np.maximum(likeness_N, items_ND @ items_ND[best])
    return [order[i] for i in chosen] + [one for one, left in zip(order, left_N, strict=True) if left]


def promoted(
    order: Sequence[Placed], promotions: Sequence[Promotion], known: Collection[Placed], limit: int
) -> list[Placed]:
    """`known` are the promoted items that may be shown to this user, in any order; the others are passed over.

    Positions first, then shares into the places that are left; an item stands once, at the first place it gets.
    """
    by_id = {one.item.item_id: one for one in known}
    fixed: dict[int, Placed] = {}
    for promotion in sorted(promotions, key=lambda p: p.position is None):
        taken = {one.item.item_id for one in fixed.values()}
        candidates = [by_id[id_] for id_ in dict.fromkeys(promotion.item_ids) if id_ in by_id and id_ not in taken]
        if promotion.position is not None:
            if promotion.position <= limit and promotion.position not in fixed and candidates:
                fixed[promotion.position] = candidates[0]
            continue
        share = int((promotion.share or 0) * limit + 1e-9)
        free = [place for place in range(1, limit + 1) if place not in fixed]
        places = _spread(free, min(share, len(candidates), len(free)))
        fixed.update(zip(places, candidates, strict=False))
    taken = {one.item.item_id for one in fixed.values()}
    rest = iter(one for one in order if one.item.item_id not in taken)
    placed: list[Placed] = []
    for place in range(1, limit + 1):
        one = fixed.get(place)
        if one is not None:
            placed.append(replace(one, source=Source.PROMOTION))
        elif (following := next(rest, None)) is not None:
            placed.append(following)
    return placed + list(rest)


def _spread(places: Sequence[int], count: int) -> list[int]:
    """`count` of the places, evenly, none first unless all are taken."""
    return [places[((2 * i + 1) * len(places)) // (2 * count)] for i in range(count)]
