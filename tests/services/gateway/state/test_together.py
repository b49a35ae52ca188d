"""Group commit: nobody waits who comes alone, and who comes meanwhile goes with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from services.gateway.state.scripts import Command
from services.gateway.state.together import MOST, Together
from shared.errors import Unavailable

pytestmark = pytest.mark.anyio


class Store:
    """Answers each command with its name, in a later turn of the loop."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.down = False

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        self.asked.append([str(command[0]) for command in commands])
        await asyncio.sleep(0.01)
        if self.down:
            raise Unavailable("down")
        return [command[0] for command in commands]


async def test_one_alone_goes_at_once() -> None:
    store = Store()
    assert await Together(store.ask).send(("a",)) == "a"
    assert store.asked == [["a"]]


async def test_who_comes_meanwhile_goes_with_the_next() -> None:
    store = Store()
    together = Together(store.ask)
    first = asyncio.create_task(together.send(("a",)))
    await asyncio.sleep(0.001)
    assert await asyncio.gather(first, *(together.send((name,)) for name in "bcd")) == ["a", "b", "c", "d"]
    assert store.asked == [["a"], ["b", "c", "d"]]


async def test_a_batch_is_bounded() -> None:
    store = Store()
    together = Together(store.ask)
    await asyncio.gather(*(together.send((str(n),)) for n in range(250)))
    assert [len(batch) for batch in store.asked] == [MOST, MOST, 50]


async def test_a_failure_reaches_all_of_its_batch_and_none_after_it() -> None:
    store = Store()
    together = Together(store.ask)
    store.down = True
    failed = await asyncio.gather(*(together.send((name,)) for name in "ab"), return_exceptions=True)
    store.down = False
    assert [type(error) for error in failed] == [Unavailable, Unavailable]
    assert await together.send(("c",)) == "c"


async def test_a_caller_who_left_takes_nobody_along() -> None:
    store = Store()
    together = Together(store.ask)
    left, stays = (asyncio.create_task(together.send((name,))) for name in "ab")
    await asyncio.sleep(0.001)
    left.cancel()
    assert await stays == "b"
