"""JSON at its word: what the standard reads is read alike, and what it lets pass is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.http.strict import MAX_DEPTH, parse

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(VALUES)
def test_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    assert parse(json.dumps(value).encode()) == value


@given(VALUES, st.text(), VALUES, VALUES)
def test_a_key_that_stands_twice_is_refused_wherever_it_stands(outer: Any, key: str, one: Any, other: Any) -> None:
    name = json.dumps(key)
    twice = f"{{{name}:{json.dumps(one)},{name}:{json.dumps(other)}}}"
    with pytest.raises(json.JSONDecodeError, match="twice"):
        parse(f"[{json.dumps(outer)},{twice}]".encode())


@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded(opens: str, closes: str) -> None:
    def nested(depth: int) -> bytes:
        return (opens * depth + "1" + closes * depth).encode()

    parse(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 10_000, 1_000_000):
        with pytest.raises(json.JSONDecodeError, match="within one another"):
            parse(nested(depth))


def test_many_shallow_values_are_not_deep() -> None:
    assert len(parse(json.dumps([[{"a": "[[[{{{"}]] * 1_000).encode())) == 1_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1',
        b"{'a':1}",
        b'{"a":1}x',
        b"NaN",
        b'{"a":Infinity}',
        b"[-Infinity]",
        b"\xff",
        b'"\xc3"',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b"1" * 5_000,
        b"[" + b"1" * 5_000 + b"]",
        b'"\x00"',
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse(body)
