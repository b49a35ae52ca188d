"""Ids and dense indices, and what a fingerprint notices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.catalog import PAD, Catalog, Item
from shared.errors import BadInput, CatalogMismatch, UnknownItem

FILMS = Catalog((Item("m1", "Heat (1995)", ("Crime",)), Item("m2", "Alien (1979)")))


@given(st.lists(st.text(min_size=1), unique=True, min_size=1))
def test_ids_and_indices_are_inverse(ids: list[str]) -> None:
    catalog = Catalog(tuple(Item(item_id, "t") for item_id in ids))
    assert [catalog[catalog.index(item_id)].id for item_id in ids] == ids
    assert [catalog.index(item_id) for item_id in ids] == list(range(1, len(ids) + 1))


def test_no_item_has_the_index_of_padding() -> None:
    assert PAD not in {FILMS.index(item.id) for item in FILMS.items}
    assert FILMS.titles[PAD] == ""
    with pytest.raises(IndexError):
        FILMS[PAD]
    with pytest.raises(IndexError):
        FILMS[3]


def test_unknown_ids_are_told_apart_in_order() -> None:
    assert FILMS.indices(["m2", "x", "m1", "y", "m2"]) == ([2, 1, 2], ["x", "y"])
    with pytest.raises(UnknownItem, match=r"'x'.*2 items"):
        FILMS.index("x")


def test_a_repeated_id_is_refused() -> None:
    with pytest.raises(BadInput, match="repeats"):
        Catalog((Item("a", "x"), Item("a", "y")))


@pytest.mark.parametrize(
    "items",
    [
        (Item("m2", "Alien (1979)"), Item("m1", "Heat (1995)", ("Crime",))),
        (Item("m1", "Heat", ("Crime",)), Item("m2", "Alien (1979)")),
        (Item("m1", "Heat (1995)"), Item("m2", "Alien (1979)")),
        (Item("m1", "Heat (1995)", ("Crime",)),),
        (Item("m1", "Heat (1995)", ("Crime",)), Item("m3", "Alien (1979)")),
    ],
    ids=["order", "title", "category", "length", "id"],
)
def test_a_fingerprint_changes_with_anything_in_the_catalogue(items: tuple[Item, ...]) -> None:
    assert Catalog(items).fingerprint() != FILMS.fingerprint()


def test_an_equal_catalogue_has_the_same_fingerprint() -> None:
    assert Catalog(tuple(FILMS.items)).fingerprint() == FILMS.fingerprint()


def test_a_mismatch_names_both_sides() -> None:
    FILMS.require(FILMS.fingerprint(), "models/lrurec")
    with pytest.raises(CatalogMismatch) as raised:
        FILMS.require("0123456789abcdef", "models/lrurec")
    for part in ("models/lrurec", "0123456789ab", FILMS.fingerprint()[:12]):
        assert part in str(raised.value)
