"""The releases that one service has loaded side by side. Its subclasses are the gateway's ReleasesPort in process."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

import structlog

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
from shared.wire.inner import ReleaseCard, ReleaseList

LOCAL = "local"
"""The release of a process that was started with folders, in place of a registry."""

log = structlog.get_logger()
T = TypeVar("T")


class Service(Protocol):
    def described(self, release: str) -> ReleaseCard: ...

    def close(self) -> None: ...


Served = TypeVar("Served", bound=Service)
Build = Callable[[str], Served]
"""From a release's id to a service. Takes long, and runs in a thread. Raises UnknownRelease or BadArtifact."""


class Host(Generic[Served]):
    """`live` is never unloaded. Without `build`, nothing else can be loaded. Everything but `build` runs in one event
    loop."""

    def __init__(
        self, live: Served, name: str = LOCAL, build: Build[Served] | None = None, max_releases: int = 5
    ) -> None:
        self.live = live
        self._name = name
        self._build = build
        self._max_releases = max_releases
        self._loaded = {name: live}
        self._loading: tuple[str, asyncio.Task[ReleaseCard]] | None = None

    @property
    def loads(self) -> bool:
        """Whether there can be others than the live one."""
        return self._build is not None

    def of(self, release: str) -> Served:
        """Raises ReleaseNotLoaded."""
        try:
            return self._loaded[release]
        except KeyError:
            raise ReleaseNotLoaded(
                f"release {release!r} is not loaded here; loaded are: {', '.join(self._loaded)}"
            ) from None

    async def load(self, release: str, deadline: Deadline) -> ReleaseCard:
        """Goes on when the caller's time is over, so that the next call finds it further. Raises UnknownRelease,
        BadArtifact, Overloaded where there is no room for one more, or DeadlineExceeded."""
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                return await self._load(release)
        except TimeoutError:
            raise DeadlineExceeded(f"release {release!r} is still being loaded; ask again") from None

    async def unload(self, release: str, deadline: Deadline) -> None:
        """Requests in flight keep theirs until they are done. Raises BadInput for the live one."""
        if release == self._name:
            raise BadInput(f"release {release!r} is the live one, which is never unloaded")
        if self._loading is not None and self._loading[0] == release:
            await asyncio.wait([self._loading[1]], timeout=deadline.remaining_s())
            if self._loading is not None and self._loading[0] == release:
                raise DeadlineExceeded(f"release {release!r} is still being loaded; ask again")
        if self._loaded.pop(release, None) is not None:
            log.info("release unloaded", release=release)
            # Modules refer to each other in circles, and the memory of a model is not to wait for the collector.
            await asyncio.wrap_future(_in_thread("collecting", gc.collect))

    async def loaded(self, deadline: Deadline) -> ReleaseList:
        return ReleaseList(releases=[one.described(name) for name, one in self._loaded.items()], live=self._name)

    def close(self) -> None:
        for service in self._loaded.values():
            service.close()

    async def _proved(self, service: Served) -> None:
        """What of the self-tests needs the event loop. Raises BadArtifact."""

    def _admitted(self, service: Served) -> None:
        """Called before its first request."""

    async def _load(self, release: str) -> ReleaseCard:
        while release not in self._loaded:
            name, task = self._loading = self._loading or (release, self._begin(release))
            if name == release:
                return await asyncio.shield(task)
            await asyncio.wait([task])
        return self._loaded[release].described(release)

    def _begin(self, release: str) -> asyncio.Task[ReleaseCard]:
        if len(self._loaded) >= self._max_releases:
            raise Overloaded(
                f"{len(self._loaded)} releases are loaded, as many as TANDEM_MAX_RELEASES allows. "
                f"Unload one of: {', '.join(name for name in self._loaded if name != self._name)}"
            )
        task = asyncio.create_task(self._bring(release))
        task.add_done_callback(_look)
        return task

    async def _bring(self, release: str) -> ReleaseCard:
        try:
            service = await self._tested(release)
            self._admitted(service)
            self._loaded[release] = service
            log.info("release loaded", release=release)
            return service.described(release)
        except TandemError as error:
            log.warning("release not loaded", release=release, reason=str(error))
            _forget_frames(error)
            raise
        finally:
            self._loading = None

    async def _tested(self, release: str) -> Served:
        service = await asyncio.wrap_future(_in_thread("loading", lambda: self._built(release)))
        await self._proved(service)
        return service

    def _built(self, release: str) -> Served:
        if self._build is None:
            raise UnknownRelease(f"release {release!r}: this service has no registry. Start it with --registry.")
        try:
            return self._build(release)
        except (UnknownRelease, BadArtifact, Unavailable):
            raise
        except TandemError as error:
            raise BadArtifact(f"release {release!r} cannot be served: {error}") from error
        except Exception as error:
            log.exception("release not loaded", release=release)
            raise BadArtifact(f"release {release!r} cannot be loaded: {type(error).__name__}") from error


def _in_thread(name: str, work: Callable[[], T]) -> Future[T]:
    """One that no process waits for when it stops, as it would for an executor's: what it does takes minutes."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    done.set_running_or_notify_cancel()
    threading.Thread(target=run, name=name, daemon=True).start()
    return done


def _forget_frames(error: BaseException | None) -> None:
    """They hold what was loaded until then."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__


def _look(task: asyncio.Task[ReleaseCard]) -> None:
    """Nobody may be waiting any more for what it raised."""
    if not task.cancelled():
        task.exception()
