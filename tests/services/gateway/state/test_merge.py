"""One history out of three sources."""

from __future__ import annotations

from services.gateway.ports import Stored
from services.gateway.state.merge import merged


def items(base: list[str] | None, *stored: Stored) -> str:
    return "".join(merged(base, stored)[0])


def test_the_data_folder_comes_first_then_the_user_then_the_session() -> None:
    assert items(["a", "b"], Stored(("c", "d")), Stored(("e",))) == "abcde"
    assert items(None, Stored(("c", "d")), Stored(("e",))) == "cde"
    assert items(["a"]) == "a"
    assert items(None) == ""


def test_repeats_stay() -> None:
    assert items(["a", "a", "b"], Stored(("b", "a", "a")), Stored(("c", "c"))) == "aabbaacc"


def test_events_that_the_user_and_the_session_share_count_once_at_the_place_of_the_session() -> None:
    assert items(None, Stored(("a", "b", "c")), Stored(("b", "c"))) == "abc"
    assert items(None, Stored(("b", "a", "b")), Stored(("b",))) == "bab"
    assert items(None, Stored(("a", "x", "b")), Stored(("s", "a", "b"))) == "xsab"


def test_an_item_of_the_data_folder_is_not_taken_for_an_event() -> None:
    assert items(["a", "b"], Stored(("b",)), Stored(("b", "a"))) == "abba"


def test_the_data_folder_is_left_out_for_who_was_erased() -> None:
    assert items(["a", "b"], Stored(("c",), erased=True), Stored(("d",))) == "cd"
    assert items(["a", "b"], Stored(erased=True)) == ""


def test_all_that_was_seen_stays_seen() -> None:
    found = merged(["a"], [Stored(seen=frozenset("xy"), erased=True), Stored(seen=frozenset("yz"))])
    assert found == ((), frozenset("xyz"))
