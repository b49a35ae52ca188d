"""What may be decided, and what follows from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.rollout import state
from services.gateway.rollout.state import HISTORY, STARTED, Canary, Decided, Step
from shared.errors import BadInput

AT = datetime(2026, 11, 22, tzinfo=UTC)


def canary(release: str, share: float = 0.1) -> Step:
    return state.canary(Canary(release=release, share=share, experiment=release), AT)


def back(now: Decided) -> Decided:
    return state.back(AT, "watch", "faults", now.live)(now)


def after(*steps: Step) -> Decided:
    now = Decided()
    for step in steps:
        now = step(now)
    return now


releases = st.sampled_from(["r1", "r2", "r3"])
steps = st.one_of(
    st.builds(lambda release: state.live(release, AT), releases),
    st.builds(canary, releases, st.sampled_from([0.1, 0.5])),
    st.builds(lambda release: state.shadow(release, AT), releases),
    st.just(back),
    st.just(state.without_canary(AT)),
    st.just(state.without_shadow(AT)),
)


@given(st.lists(steps, max_size=30))
def test_no_release_has_two_roles_among_those_that_answer(taken: list[Step]) -> None:
    now = Decided()
    for step in taken:
        try:
            new = step(now)
        except BadInput:
            continue
        roles = [new.live, new.canary.release if new.canary else None, new.shadow]
        named = [one for one in roles if one is not None]
        assert len(set(named)) == len(named)
        assert new.previous != new.live
        assert set(named) <= new.releases()
        assert len(new.history) - len(now.history) == (0 if new == now else 1) or len(new.history) == HISTORY
        assert Decided.model_validate_json(new.model_dump_json()) == new
        now = new


def test_there_and_back() -> None:
    now = after(state.live("r1", AT), state.live("r2", AT))
    assert (now.live, now.previous) == ("r2", "r1")
    now = back(now)
    assert (now.live, now.previous) == ("r1", "r2")
    assert (now.history[-1].what, now.history[-1].by, now.history[-1].reason) == ("rollback", "watch", "faults")


def test_the_way_back_from_the_first_release_is_what_the_services_started_with() -> None:
    now = after(state.live("r1", AT), back)
    assert (now.live, now.history[-1].release) == (STARTED, None)


def test_a_canary_that_becomes_live_is_a_canary_no_longer() -> None:
    assert after(state.live("r1", AT), canary("r2"), state.live("r2", AT)).canary is None
    assert after(state.live("r1", AT), canary("r2"), state.live("r3", AT)).canary is not None


def test_the_same_again_changes_nothing() -> None:
    once = after(state.live("r1", AT))
    assert state.live("r1", AT)(once) == once


@pytest.mark.parametrize(
    ("before", "step"),
    [
        ([], back),
        ([state.live("r1", AT), back], state.back(AT, "watch", "", "r1")),
        ([], state.without_canary(AT)),
        ([], state.without_shadow(AT)),
        ([state.live("r1", AT)], canary("r1")),
        ([state.live("r1", AT)], state.shadow("r1", AT)),
        ([canary("r1")], state.shadow("r1", AT)),
        ([canary("r1")], state.without_canary(AT, "watch", "", "r2")),
    ],
)
def test_what_cannot_be_is_refused(before: list[Step], step: Step) -> None:
    with pytest.raises(BadInput):
        step(after(*before))


def test_a_release_is_new_for_a_while_unless_it_was_gone_back_to() -> None:
    now = after(state.live("r1", AT), state.live("r2", AT))
    assert now.is_new(AT + timedelta(seconds=599), 600)
    assert not now.is_new(AT + timedelta(seconds=600), 600)
    assert not back(now).is_new(AT, 600)
    assert not Decided().is_new(AT, 600)


def test_a_later_version_may_add_to_what_is_stored() -> None:
    stored: dict[str, Any] = after(state.live("r1", AT)).model_dump(mode="json") | {"surprise": 1}
    assert Decided.model_validate(stored).live == "r1"
