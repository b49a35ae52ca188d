"""Releases side by side: one load at a time, nothing changed by one that fails, the live one always there."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from services.releases.host import LOCAL, Host
from shared.deadline import Deadline
from shared.errors import (
    BadArtifact,
    BadInput,
    DeadlineExceeded,
    Overloaded,
    ReleaseNotLoaded,
    TandemError,
    Unavailable,
    UnknownRelease,
)
from shared.wire.inner import ReleaseCard
from tests.services.releases.memory import gone

pytestmark = pytest.mark.anyio


class Thing:
    """A service that only says what it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False

    def described(self, release: str) -> ReleaseCard:
        return ReleaseCard(release=release, catalog=self.name, models=[])

    def close(self) -> None:
        self.closed = True


class Workshop:
    """Builds when `go` is set, and remembers."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.built: list[str] = []
        self.at_once = self.most_at_once = 0
        self.fault: Callable[[], Exception] | None = None

    def __call__(self, release: str) -> Thing:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.go.wait(10)
        time.sleep(0.01)
        self.at_once -= 1
        self.built.append(release)
        if self.fault:
            raise self.fault()
        return Thing(release)


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


@pytest.fixture
def host(workshop: Workshop) -> Host[Thing]:
    return Host(Thing("live"), "start", workshop, max_releases=3)


def soon(ms: float = 5_000) -> Deadline:
    return Deadline.after_ms(ms)


async def names(host: Host[Thing]) -> list[str]:
    return [card.release for card in (await host.loaded(soon())).releases]


async def test_a_release_is_loaded_beside_the_live_one(host: Host[Thing]) -> None:
    card = await host.load("two", soon())
    assert (card.release, card.catalog) == ("two", "two")
    found = await host.loaded(soon())
    assert ([one.release for one in found.releases], found.live) == (["start", "two"], "start")
    assert (host.of("two").name, host.of("start").name, host.live.name) == ("two", "live", "live")


async def test_what_is_loaded_is_not_loaded_again(host: Host[Thing], workshop: Workshop) -> None:
    cards = [await host.load("two", soon()), await host.load("two", soon()), await host.load("start", soon())]
    assert workshop.built == ["two"]
    assert cards[0] == cards[1]


async def test_those_who_ask_for_one_release_wait_for_one_load(host: Host[Thing], workshop: Workshop) -> None:
    cards = await asyncio.gather(*(host.load("two", soon()) for _ in range(20)))
    assert workshop.built == ["two"]
    assert len({card.model_dump_json() for card in cards}) == 1


async def test_two_releases_are_loaded_one_after_the_other(host: Host[Thing], workshop: Workshop) -> None:
    await asyncio.gather(*(host.load(name, soon()) for name in ("two", "three", "two", "three")))
    assert sorted(workshop.built) == ["three", "two"]
    assert workshop.most_at_once == 1
    assert sorted(await names(host)) == ["start", "three", "two"]


async def test_a_load_goes_on_when_its_callers_time_is_over(host: Host[Thing], workshop: Workshop) -> None:
    workshop.go.clear()
    for _ in range(2):
        with pytest.raises(DeadlineExceeded, match="still being loaded"):
            await host.load("two", soon(30))
    with pytest.raises(ReleaseNotLoaded):
        host.of("two")
    workshop.go.set()
    assert (await host.load("two", soon())).release == "two"
    assert workshop.built == ["two"]


async def test_a_caller_who_leaves_takes_no_load_with_him(host: Host[Thing], workshop: Workshop) -> None:
    workshop.go.clear()
    caller = asyncio.create_task(host.load("two", soon()))
    await asyncio.sleep(0.02)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    workshop.go.set()
    await host.load("two", soon())
    assert workshop.built == ["two"]


async def test_the_event_loop_turns_while_something_is_loaded(host: Host[Thing], workshop: Workshop) -> None:
    workshop.go.clear()
    loading = asyncio.create_task(host.load("two", soon()))
    for _ in range(20):
        await asyncio.sleep(0.001)
        assert host.of("start").name == "live"
    assert not loading.done()
    workshop.go.set()
    await loading


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (lambda: UnknownRelease("no such release"), UnknownRelease),
        (lambda: BadArtifact("its file was changed"), BadArtifact),
        (lambda: Unavailable("no download"), Unavailable),
        (lambda: BadInput("backbone cannot be had"), BadArtifact),
        (lambda: MemoryError(), BadArtifact),
        (lambda: TimeoutError("a network folder"), BadArtifact),
        (lambda: RuntimeError("out of memory"), BadArtifact),
    ],
)
async def test_a_load_that_fails_changes_nothing(
    fault: Callable[[], Exception], raised: type[TandemError], host: Host[Thing], workshop: Workshop
) -> None:
    workshop.fault = fault
    with pytest.raises(raised):
        await host.load("two", soon())
    assert await names(host) == ["start"]
    workshop.fault = None
    assert (await host.load("two", soon())).release == "two"


async def test_nothing_is_left_in_memory_of_a_load_that_failed(workshop: Workshop) -> None:
    seen: list[weakref.ref[Thing]] = []

    class Choosy(Host[Thing]):
        async def _proved(self, service: Thing) -> None:
            seen.append(weakref.ref(service))
            raise BadArtifact("it does not reproduce its golden score")

    host = Choosy(Thing("live"), "start", workshop)
    with pytest.raises(BadArtifact) as caught:
        await host.load("two", soon())
    await gone(*seen)
    assert len(seen) == 1, caught.value
    assert await names(host) == ["start"]


async def test_one_more_than_there_is_room_for_is_refused_by_name(host: Host[Thing], workshop: Workshop) -> None:
    await host.load("two", soon())
    await host.load("three", soon())
    with pytest.raises(Overloaded, match=r"TANDEM_MAX_RELEASES.*two, three"):
        await host.load("four", soon())
    assert workshop.built == ["two", "three"]
    await host.unload("two", soon())
    assert (await host.load("four", soon())).release == "four"


async def test_what_is_unloaded_answers_nobody_and_leaves_memory(host: Host[Thing]) -> None:
    await host.load("two", soon())
    there = weakref.ref(host.of("two"))
    await host.unload("two", soon())
    assert there() is None
    with pytest.raises(ReleaseNotLoaded, match="'two' is not loaded here; loaded are: start"):
        host.of("two")


async def test_unloading_what_is_not_loaded_is_done_already(host: Host[Thing]) -> None:
    await host.unload("never", soon())
    assert await names(host) == ["start"]


async def test_the_live_one_is_never_unloaded(host: Host[Thing]) -> None:
    with pytest.raises(BadInput, match="live"):
        await host.unload("start", soon())
    assert host.of("start").name == "live"


async def test_what_is_being_loaded_is_unloaded_once_it_is_there(host: Host[Thing], workshop: Workshop) -> None:
    workshop.go.clear()
    loading = asyncio.create_task(host.load("two", soon()))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        await host.unload("two", soon(20))
    unloading = asyncio.create_task(host.unload("two", soon()))
    await asyncio.sleep(0)
    workshop.go.set()
    await asyncio.gather(loading, unloading)
    assert await names(host) == ["start"]


async def test_without_a_registry_there_is_nothing_to_load() -> None:
    host = Host(Thing("live"))
    with pytest.raises(UnknownRelease, match="--registry"):
        await host.load("two", soon())
    assert (await host.loaded(soon())).live == LOCAL


async def test_closing_closes_all_that_are_loaded(host: Host[Thing]) -> None:
    await host.load("two", soon())
    services = [host.of("two"), host.live]
    host.close()
    assert all(service.closed for service in services)
