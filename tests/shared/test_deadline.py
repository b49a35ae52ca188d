"""A deadline only shrinks, never below zero."""

from __future__ import annotations

from time import monotonic

from shared.deadline import HEADER, Deadline


def test_what_remains_is_at_most_what_was_given_and_shrinks() -> None:
    deadline = Deadline.after_ms(1_000)
    first = deadline.remaining_ms()
    assert 0 < deadline.remaining_ms() <= first <= 1_000
    assert deadline.remaining_s() <= first / 1_000


def test_a_past_deadline_is_expired_and_never_negative() -> None:
    deadline = Deadline(monotonic() - 5)
    assert deadline.expired
    assert deadline.remaining_ms() == 0.0
    assert deadline.header() == {HEADER: "0"}


def test_a_part_of_the_work_ends_earlier() -> None:
    deadline = Deadline.after_ms(500)
    assert abs(deadline.at - deadline.less_ms(200).at - 0.2) < 1e-9
    assert deadline.less_ms(1_000).expired
    assert not deadline.expired


def test_the_header_carries_whole_milliseconds() -> None:
    assert 0 <= int(Deadline.after_ms(250).header()[HEADER]) <= 250
