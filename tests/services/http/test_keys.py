"""Who is let in by a key file, and who no longer is once it has changed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.http.keys import RECHECK_S, KeyFile, Keys
from shared.errors import BadInput, Unauthorized
from tests.services.keys import PAST, added


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + key.encode()}


def test_a_key_says_whose_it_is_and_what_it_allows(path: Path) -> None:
    key = added(path, "shop", ("read",), rate="5/second")
    caller = Keys(path)({}, bearer(key))
    assert (caller.tenant, caller.scopes, caller.rate) == ("shop", {"read"}, "5/second")
    assert caller.key_id == key.split("_")[1]


def test_both_headers_carry_a_key(path: Path) -> None:
    key = added(path)
    keys = Keys(path)
    assert keys({}, {b"x-api-key": key.encode()}) == keys({}, bearer(key)) == keys({}, bearer(key))


def test_the_file_holds_a_hash_and_only_its_owner_reads_it(path: Path) -> None:
    key = added(path)
    secret = key.split("_", 2)[2]
    assert secret not in path.read_text()
    assert hashlib.sha256(secret.encode()).hexdigest() in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(secret) == 43  # 256 bits in base64


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b""},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Basic dGQ6eA=="},
        {b"x-api-key": b""},
        {b"x-api-key": b"td"},
        {b"x-api-key": b"td_"},
        {b"x-api-key": b"td__"},
        {b"x-api-key": b"\xff\xfe"},
        {b"x-api-key": b"td_" + b"x" * 10_000},
        {b"x-api-key": b"td_000000000000_" + b"A" * 43},
    ],
)
def test_nobody_is_let_in_without_a_key_of_the_file(path: Path, headers: dict[bytes, bytes]) -> None:
    added(path)
    with pytest.raises(Unauthorized):
        Keys(path)({}, headers)


def test_every_character_of_a_key_counts(path: Path) -> None:
    key = added(path)
    keys = Keys(path)
    keys({}, bearer(key))
    for place, letter in enumerate(key):
        wrong = key[:place] + ("x" if letter != "x" else "y") + key[place + 1 :]
        with pytest.raises(Unauthorized):
            keys({}, bearer(wrong))
    for wrong in (key[:-1], key + "x", key.upper()):
        with pytest.raises(Unauthorized):
            keys({}, bearer(wrong))


def test_one_keys_id_with_anothers_secret_opens_nothing(path: Path) -> None:
    one, other = added(path, "a"), added(path, "b")
    mixed = "_".join([*one.split("_")[:2], other.split("_", 2)[2]])
    with pytest.raises(Unauthorized):
        Keys(path)({}, bearer(mixed))


@pytest.mark.parametrize(("fields", "why"), [({"expires": PAST}, "expired"), ({"revoked": PAST}, "revoked")])
def test_an_expired_or_revoked_key_is_told_so(path: Path, fields: dict[str, datetime], why: str) -> None:
    key = added(path, **fields)  # type: ignore[arg-type]
    with pytest.raises(Unauthorized, match=why):
        Keys(path)({}, bearer(key))


def test_why_a_key_is_refused_is_told_only_to_who_has_its_secret(path: Path) -> None:
    key = added(path, revoked=PAST)
    with pytest.raises(Unauthorized, match="not known"):
        Keys(path)({}, bearer(key[:-1]))


def test_a_key_expires_while_it_is_in_use(path: Path) -> None:
    end = datetime(2030, 1, 1, tzinfo=UTC)
    key = added(path, expires=end)
    times = iter([end - timedelta(seconds=1), end])
    keys = Keys(path, wall=lambda: next(times))
    keys({}, bearer(key))
    with pytest.raises(Unauthorized, match="expired"):
        keys({}, bearer(key))


def test_keys_rotate_while_they_are_in_use(path: Path) -> None:
    clock = Clock()
    old = added(path, "shop")
    keys = Keys(path, clock)
    keys({}, bearer(old))
    new = added(path, "shop")
    clock.now += RECHECK_S
    assert keys({}, bearer(new)).tenant == keys({}, bearer(old)).tenant == "shop"
    first, second = KeyFile.read(path).keys
    KeyFile(keys=(first.model_copy(update={"revoked": PAST}), second)).write(path)
    clock.now += RECHECK_S
    keys({}, bearer(new))
    with pytest.raises(Unauthorized, match="revoked"):
        keys({}, bearer(old))


def test_a_file_that_breaks_or_goes_leaves_the_keys_of_before(path: Path) -> None:
    clock = Clock()
    key = added(path)
    keys = Keys(path, clock)
    for broken in ("{", None):
        path.write_text(broken) if broken else path.unlink()
        clock.now += RECHECK_S
        with capture_logs() as told:
            keys({}, bearer(key))
            keys({}, bearer(key))
        assert [line["event"] for line in told] == ["the keys of before stay"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"keys":[{}]}',
        '{"keys":[],"more":1}',
        '{"keys":[{"id":"000000000000","sha256":"short","tenant":"a","scopes":["read"],"created":"2026-01-01T00:00Z"}]}',
    ],
)
def test_a_file_that_is_none_is_refused_at_the_start(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(BadInput, match=r"keys\.json"):
        Keys(path)


def test_no_file_is_refused_at_the_start(path: Path) -> None:
    with pytest.raises(BadInput, match="tandem keys add"):
        Keys(path)
