"""The most recent items, oldest first."""

from shared.history import History


def test_last_keeps_the_newest_in_order() -> None:
    history = History((5, 3, 9), "u")
    assert history.last(2) == (3, 9)
    assert history.last(10) == (5, 3, 9)
    assert history.last(0) == history.last(-1) == ()
    assert len(history) == 3
