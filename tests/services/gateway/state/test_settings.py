"""Which store the environment asks for."""

from __future__ import annotations

import pytest

from services.gateway.ports import Who
from services.gateway.state.memory import MemoryState
from services.gateway.state.settings import StateSettings, open_state
from services.http.settings import read
from shared.errors import BadInput
from shared.wire.users import ItemState
from tests.redis_server import RedisServer
from tests.services.gateway.state.words import NOW, took

pytestmark = pytest.mark.anyio


def test_without_a_url_everything_is_in_memory() -> None:
    state = open_state(StateSettings())
    assert isinstance(state, MemoryState)
    assert state.connections is None


async def test_with_a_url_it_is_in_redis(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.command("FLUSHALL")
    monkeypatch.setenv("TANDEM_REDIS_URL", server.url)
    monkeypatch.setenv("TANDEM_REDIS_TIMEOUT_MS", "1000")
    monkeypatch.setenv("TANDEM_MAX_ITEM_STATES", "1")
    one, other = open_state(read(StateSettings)), open_state(read(StateSettings))
    await one.append("t", [took("e1", "a")], NOW)
    assert (await other.read("t", [Who("user", "u1")])).stored[0].items == ("a",)
    await one.set_item("t", "a", ItemState(hidden=True))
    with pytest.raises(BadInput, match="TANDEM_MAX_ITEM_STATES"):
        await other.set_item("t", "b", ItemState(hidden=True))
    await one.aclose()
    await other.aclose()


async def test_another_erasure_secret_knows_no_erased_users(server: RedisServer) -> None:
    states = [
        open_state(StateSettings(redis_url=server.url, redis_timeout_ms=1000, erasure_secret=secret))
        for secret in ("one", "one", "two")
    ]
    await states[0].erase("t", "u1")
    found = [(await state.read("t", [Who("user", "u1")])).stored[0].erased for state in states]
    assert found == [True, True, False]
    for state in states:
        await state.aclose()


@pytest.mark.parametrize(
    "url", ["http://me:secret@host", "redis://me:sec/ret@host:1", "redis://secret@host/1?db=x", ""]
)
def test_a_url_that_is_none_is_refused_and_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_REDIS_URL", url)
    with pytest.raises(BadInput, match="TANDEM_REDIS_URL is not a Redis URL") as raised:
        open_state(read(StateSettings))
    assert "sec" not in str(raised.value)


def test_a_password_is_never_printed() -> None:
    settings = StateSettings(redis_url="redis://me:secret@host", erasure_secret="secret")
    assert "secret@" not in f"{settings!r} {settings}"
    assert "=secret" not in repr(settings)
