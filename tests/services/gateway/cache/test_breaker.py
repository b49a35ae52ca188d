"""The breaker: silence opens it, one call at a time tries again, and who is cancelled says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from services.gateway.cache.breaker import Breaker, guarded
from services.gateway.state.bounds import Bounds
from services.gateway.state.memory import MemoryState
from shared.errors import BadInput, Overloaded, Unavailable
from tests.services.gateway.cache.conftest import Clock

pytestmark = pytest.mark.anyio


class Server:
    """Fails with `error` while there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    async def ask(self) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return "answer"

    async def aclose(self) -> None:
        self.asked = -1


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("it", failures=3, open_s=1.0, clock=clock)


async def fail(breaker: Breaker, server: Server, times: int) -> None:
    for _ in range(times):
        with pytest.raises(Exception):  # noqa: B017
            await breaker.call(server.ask)


async def test_what_works_goes_through(breaker: Breaker) -> None:
    assert await breaker.call(Server().ask) == "answer"
    assert breaker.closed


@pytest.mark.parametrize("error", [Unavailable("x"), TimeoutError(), ConnectionResetError()])
async def test_silence_in_a_row_opens_it_and_then_nobody_is_asked(breaker: Breaker, error: Exception) -> None:
    server = Server(error)
    await fail(breaker, server, 3)
    with pytest.raises(Unavailable, match="it did not answer 3 times in a row"):
        await breaker.call(server.ask)
    assert (server.asked, breaker.closed) == (3, False)


async def test_an_answer_between_two_silences_keeps_it_closed(breaker: Breaker) -> None:
    server = Server(Unavailable("x"))
    for _ in range(5):
        await fail(breaker, server, 2)
        await breaker.call(Server().ask)
    assert breaker.closed


@pytest.mark.parametrize("error", [Overloaded("full"), BadInput("wrong"), ValueError()])
async def test_a_refusal_is_an_answer(breaker: Breaker, error: Exception) -> None:
    await fail(breaker, Server(error), 10)
    assert breaker.closed


async def test_after_a_while_one_call_tries_and_closes_it(breaker: Breaker, clock: Clock) -> None:
    await fail(breaker, Server(Unavailable("x")), 3)
    clock.advance(0.99)
    with pytest.raises(Unavailable):
        await breaker.call(Server().ask)
    clock.advance(0.02)
    assert await breaker.call(Server().ask) == "answer"
    assert breaker.closed


async def test_a_crowd_sends_one_call_to_try(breaker: Breaker, clock: Clock) -> None:
    server = Server(Unavailable("x"))
    await fail(breaker, server, 3)
    clock.advance(1.1)
    await asyncio.gather(*(breaker.call(server.ask) for _ in range(100)), return_exceptions=True)
    assert server.asked == 4


async def test_a_try_that_fails_opens_it_for_as_long_again(breaker: Breaker, clock: Clock) -> None:
    server = Server(Unavailable("x"))
    await fail(breaker, server, 3)
    for tries in (1, 2, 3):
        clock.advance(1.1)
        await fail(breaker, server, 5)
        assert server.asked == 3 + tries


async def cancelled(breaker: Breaker, server: Server) -> None:
    task = asyncio.create_task(breaker.call(server.ask))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_call_whose_client_left_is_neither_silence_nor_answer(breaker: Breaker) -> None:
    server = Server(Unavailable("x"))
    for _ in range(10):
        await cancelled(breaker, server)
    assert breaker.closed
    await fail(breaker, server, 2)
    await cancelled(breaker, server)
    await fail(breaker, server, 1)
    assert not breaker.closed


async def test_a_try_whose_client_left_leaves_the_next_one_to_try(breaker: Breaker, clock: Clock) -> None:
    await fail(breaker, Server(Unavailable("x")), 3)
    clock.advance(1.1)
    await cancelled(breaker, Server())
    assert not breaker.closed
    assert await breaker.call(Server().ask) == "answer"


async def test_those_who_were_under_way_when_it_opened_keep_it_open_no_longer(breaker: Breaker, clock: Clock) -> None:
    server = Server(Unavailable("x"))
    gate = asyncio.Event()

    async def late() -> str:
        await gate.wait()
        return await server.ask()

    under_way = [asyncio.create_task(breaker.call(late)) for _ in range(5)]
    await asyncio.sleep(0)
    await fail(breaker, server, 3)
    clock.advance(0.9)
    gate.set()
    await asyncio.gather(*under_way, return_exceptions=True)
    clock.advance(0.2)
    assert await breaker.call(Server().ask) == "answer"


async def test_refusing_grows_no_traceback(breaker: Breaker) -> None:
    await fail(breaker, Server(Unavailable("x")), 3)
    seen: list[BaseException] = []
    for _ in range(3):
        with pytest.raises(Unavailable) as refusal:
            await breaker.call(Server().ask)
        seen.append(refusal.value)
    assert len(set(map(id, seen))) == 3


async def test_what_counts_as_silence_can_be_told(clock: Clock) -> None:
    is_fault: Callable[[Exception], bool] = lambda error: isinstance(error, KeyError)  # noqa: E731
    breaker = Breaker("it", failures=1, is_fault=is_fault, clock=clock)
    await fail(breaker, Server(Unavailable("x")), 2)
    assert breaker.closed
    await fail(breaker, Server(KeyError()), 1)
    assert not breaker.closed


async def test_a_guarded_port_is_asked_no_more_once_it_is_silent(breaker: Breaker) -> None:
    server = Server(Unavailable("x"))
    port = guarded(server, breaker)
    for _ in range(10):
        with pytest.raises(Unavailable):
            await port.ask()
    assert server.asked == 3
    await port.aclose()
    assert server.asked == -1


async def test_a_guarded_state_is_a_state(breaker: Breaker) -> None:
    state = guarded(MemoryState(Bounds()), breaker)
    snapshot = await state.read("acme", [])
    assert snapshot.stored == ()
    assert (await state.items("acme")).of("i1") is None
    with pytest.raises(AttributeError):
        state.no_such_method  # noqa: B018
    await state.aclose()
