"""Values as bytes: they come back, or they are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.cache.kept import MAGIC, Kept, decode

milliseconds = st.integers(0, 1 << 31).map(lambda ms: ms / 1000)
kept = st.builds(
    Kept,
    value=st.binary(max_size=50),
    written_at=st.integers(0, 1 << 42).map(lambda ms: ms / 1000),
    fresh_s=milliseconds,
    stale_s=milliseconds,
)


@given(kept)
def test_what_was_encoded_comes_back(one: Kept) -> None:
    back = decode(one.encode())
    assert back is not None
    assert back.value == one.value
    times = [back.written_at, back.fresh_s, back.stale_s]
    assert times == pytest.approx([one.written_at, one.fresh_s, one.stale_s], abs=0.0011)


@given(kept, st.data())
def test_one_wrong_bit_is_seen(one: Kept, data: st.DataObject) -> None:
    raw = bytearray(one.encode())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    assert decode(bytes(raw)) is None


@given(kept, st.data())
def test_half_a_value_is_none(one: Kept, data: st.DataObject) -> None:
    raw = one.encode()
    assert decode(raw[: data.draw(st.integers(0, len(raw) - 1))]) is None


def test_another_version_is_none_of_ours() -> None:
    raw = Kept(b"v", 1.0, 1.0, 1.0).encode()
    assert raw.startswith(MAGIC)
    assert decode(b"TDC2" + raw[len(MAGIC) :]) is None


@given(st.binary(max_size=60) | st.none() | st.text() | st.integers())
def test_nonsense_is_none(raw: object) -> None:
    assert decode(raw) is None


def test_a_time_beyond_what_fits_is_cut() -> None:
    back = decode(Kept(b"v", 1.0, 1e12, 1.0).encode())
    assert back is not None
    assert back.fresh_s > 40 * 24 * 3600


def test_a_clock_that_was_set_back_makes_nothing_negative() -> None:
    entry = Kept(b"v", 100.0, 10, 0).entry(50.0)
    assert entry is not None
    assert (entry.age_s, entry.fresh) == (0.0, True)


def test_the_form_of_a_value_changes_only_with_its_magic() -> None:
    raw = Kept(b"v", 1_000_000.0, 10, 20).encode()
    assert raw.hex() == "5444433119c0c49a00ca9a3b0000000010270000204e000076"
