"""A canary's users: as many as were asked for, always the same, and others for another experiment."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.rollout.assignment import Split

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
shares = st.floats(0, 1, exclude_min=True, exclude_max=True)
ids = st.text(st.characters(min_codepoint=32, exclude_categories=()), min_size=1, max_size=20)
USERS = [f"user-{n}" for n in range(10_000)]


def taken(experiment: str, share: float) -> set[str]:
    split = Split(experiment, share)
    return {user for user in USERS if split.takes("default", user)}


def test_ten_percent_of_ten_thousand_users_are_a_thousand() -> None:
    for experiment in ("r2", "newer-ranker", "2026-11"):
        assert 900 <= len(taken(experiment, 0.1)) <= 1100


@settings(max_examples=20, deadline=None)
@given(names, st.floats(0.01, 0.99))
def test_the_share_is_kept_for_any_experiment(experiment: str, share: float) -> None:
    deviation = (share * (1 - share) * len(USERS)) ** 0.5
    assert abs(len(taken(experiment, share)) - share * len(USERS)) < 5.5 * deviation


@given(names, shares, ids, ids)
def test_a_user_stays_where_he_is(experiment: str, share: float, tenant: str, user: str) -> None:
    assert Split(experiment, share).takes(tenant, user) == Split(experiment, share).takes(tenant, user, "s", ["i1"])


@given(names, shares, shares, ids)
def test_a_larger_share_holds_the_users_of_the_smaller_one(experiment: str, one: float, two: float, user: str) -> None:
    less, more = sorted((one, two))
    assert not Split(experiment, less).takes("default", user) or Split(experiment, more).takes("default", user)


def test_two_experiments_split_independently() -> None:
    one, other = taken("one", 0.5), taken("other", 0.5)
    assert 2_300 <= len(one & other) <= 2_700


def test_who_has_no_name_is_known_by_session_or_history() -> None:
    split = Split("r2", 0.5)
    by_session = [split.takes("default", None, f"s{n}", ["i1"]) for n in range(1_000)]
    by_history = [split.takes("default", None, None, ["i1", f"i{n}"]) for n in range(1_000)]
    for found in (by_session, by_history):
        assert 400 < sum(found) < 600


def test_equal_names_of_two_tenants_or_kinds_are_different_people() -> None:
    split = Split("r2", 0.5)
    for others in (
        [split.takes("other", user) for user in USERS],
        [split.takes("default", None, user) for user in USERS],
    ):
        same = sum(one == split.takes("default", user) for one, user in zip(others, USERS, strict=True))
        assert 4_700 < same < 5_300
