"""Keys: as different as what they stand for, and the same in every process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.cache.keys import DIGEST_BYTES, Parts, Retrieved, cache_key, digest, user_prefix

text = st.text(st.characters(exclude_categories=()), max_size=8)  # half surrogate pairs too
short = st.text("ab\x00:\x01", max_size=4)
"""Few letters, so that neighbours often look like each other."""
digests = st.binary(max_size=4)
retrieved = st.builds(
    Retrieved, retriever=short, index=short, categories=st.frozensets(short, max_size=3), k=st.integers(0, 300)
)
parts = st.builds(
    Parts,
    tenant=short,
    kind=st.sampled_from(["ranking", "vector"]),
    release=short,
    history=digests,
    candidates=st.none() | digests | retrieved,
    given=st.none() | digests,
    ranker=short,
    labels=short,
    template=short,
    user_id=st.none() | short,
)
WHOLE = Parts(
    tenant="acme",
    kind="ranking",
    history=digest(["i1", "i2"]),
    candidates=Retrieved(retriever="lrurec@1", index="7", categories=frozenset({"Horror", "Drama", "Comedy"}), k=20),
    ranker="llamarec@2",
    labels="l",
    template="t",
    user_id="u1",
)


@given(parts, parts)
def test_other_parts_have_another_key(one: Parts, two: Parts) -> None:
    assert (cache_key(one) == cache_key(two)) == (one == two)


@pytest.mark.parametrize(
    "other",
    [
        replace(WHOLE, tenant="acme2"),
        replace(WHOLE, kind="explained"),
        replace(WHOLE, release="r2"),
        replace(WHOLE, history=digest(["i2", "i1"])),
        replace(WHOLE, candidates=None),
        replace(WHOLE, candidates=digest(["i3"])),
        replace(WHOLE, candidates=Retrieved(retriever="lrurec@2", index="7", k=20)),
        replace(WHOLE, candidates=Retrieved(retriever="lrurec@1", index="8", k=20)),
        replace(WHOLE, candidates=Retrieved(retriever="lrurec@1", index="7", k=40)),
        replace(WHOLE, candidates=Retrieved(retriever="lrurec@1", index="7", categories=frozenset({"Drama"}), k=20)),
        replace(WHOLE, given=digest(["i3"])),
        replace(WHOLE, ranker="llamarec@3"),
        replace(WHOLE, labels="m"),
        replace(WHOLE, template="u"),
        replace(WHOLE, user_id="u2"),
        replace(WHOLE, user_id=None),
        replace(WHOLE, user_id=""),
    ],
)
def test_every_single_part_counts(other: Parts) -> None:
    assert cache_key(other) != cache_key(WHOLE)


@given(short, st.integers(0, 8), st.integers(0, 8))
def test_no_letter_moves_from_one_part_into_the_next(letters: str, one: int, two: int) -> None:
    """The same letters, cut at two places."""
    first, second = (replace(WHOLE, ranker=letters[:cut], labels=letters[cut:]) for cut in (one, two))
    assert (cache_key(first) == cache_key(second)) == (first == second)


@given(text, text)
def test_tenants_share_no_key(one: str, two: str) -> None:
    """Not even a prefix, so that one tenant's keys can be scanned for."""
    first, second = (cache_key(replace(WHOLE, tenant=tenant)) for tenant in (one, two))
    prefix = first[: first.index(":cache:")]
    assert second.startswith(prefix + ":") == (one == two)


@given(parts)
def test_a_key_is_a_readable_prefix_and_a_digest_of_fixed_length(some: Parts) -> None:
    schema, tenant, room, *owner, kind, rest = cache_key(some).split(":")
    assert (schema, room, kind, len(rest)) == ("td2", "cache", some.kind, 2 * DIGEST_BYTES)
    assert [len(word) for word in owner] == ([] if some.user_id is None else [len("user"), 2 * DIGEST_BYTES])
    assert (tenant == some.tenant) == (some.tenant.isalnum() or some.tenant == "")


@given(parts, short)
def test_what_is_kept_for_a_user_and_nothing_else_begins_as_an_erasure_looks_for_it(some: Parts, user: str) -> None:
    prefix = user_prefix(some.tenant, user)
    assert cache_key(some).startswith(prefix) == (some.user_id == user)
    assert not set(prefix) & set("*?[]^\\")


PROBE = """
import json, sys
from tests.services.gateway.cache.test_keys import WHOLE, cache_key, replace
print(json.dumps([cache_key(WHOLE), cache_key(replace(WHOLE, candidates=b"x", user_id=None))]))
"""


def test_another_process_with_another_hash_seed_gives_the_same_keys() -> None:
    here = [cache_key(WHOLE), cache_key(replace(WHOLE, candidates=b"x", user_id=None))]
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        found = subprocess.run([sys.executable, "-c", PROBE], env=environment, check=True, capture_output=True)
        assert json.loads(found.stdout) == here


def test_the_form_of_a_key_changes_only_with_its_schema() -> None:
    assert cache_key(WHOLE) == (
        "td2:acme:cache:user:a337c7062aaf79db40f9e8f65fe630ec3be416a6:ranking:fa130ed7d186a10f5d4778eec54a70cc42222e96"
    )


ids = st.lists(short, max_size=6)


@given(ids, ids)
def test_other_ids_have_another_digest(one: list[str], two: list[str]) -> None:
    assert (digest(one) == digest(two)) == (one == two)


def test_no_id_can_pass_for_the_lengths_of_others() -> None:
    """One id that holds the very bytes which two would be written as."""
    assert digest(["\x01\x00\x00\x00ab"]) != digest(["a", "b"])
    assert digest(["\x00" * 8]) != digest(["", "", "\x00\x00\x00\x00"])
    assert digest([]) != digest([""])


@given(st.lists(text, max_size=4))
def test_ids_of_any_characters_have_a_digest(some: list[str]) -> None:
    assert len(digest(some)) == DIGEST_BYTES
