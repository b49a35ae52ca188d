"""A breaker: what failed several times in a row is left alone for a while, then asked by one call at a time.

Our own, because the libraries (purgatory 3, circuitbreaker 2) let every waiting call through at the first retry, count
a call whose client left as a failure or as a success, and tell the time by a clock that can be set.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import structlog

from shared.errors import Overloaded, Unavailable

T = TypeVar("T")
log = structlog.get_logger()


def is_silence(error: Exception) -> bool:
    """It did not answer. Who says that its queue is full is alive."""
    silent = isinstance(error, Unavailable | OSError)
    return silent and not isinstance(error, Overloaded)


class Breaker:
    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        open_s: float = 1.0,
        is_fault: Callable[[Exception], bool] = is_silence,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._most, self._open_s = name, failures, open_s
        self._is_fault = is_fault
        self._clock = clock
        self._failures = 0
        self._open_until: float | None = None
        self._probing = False

    @property
    def closed(self) -> bool:
        return self._open_until is None

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Raises what `work` raises, or Unavailable without asking it."""
        probe = self._admit()
        try:
            result = await work()
        except Exception as error:
            if self._is_fault(error):
                self._failed(probe)
            else:
                self._answered()
            raise
        finally:
            if probe:
                self._probing = False
        self._answered()
        return result

    def _admit(self) -> bool:
        """Whether this call is the one that tries again."""
        if self._open_until is None:
            return False
        if self._probing or self._clock() < self._open_until:
            raise Unavailable(f"{self._name} did not answer {self._failures} times in a row; it is tried again soon")
        self._probing = True
        return True

    def _failed(self, probe: bool) -> None:
        """Calls that were under way when it opened change nothing."""
        if self._open_until is None:
            self._failures += 1
            if self._failures < self._most:
                return
            log.warning("breaker opened", name=self._name, failures=self._failures)
        elif not probe:
            return
        self._open_until = self._clock() + self._open_s

    def _answered(self) -> None:
        if self._open_until is not None:
            log.info("breaker closed", name=self._name)
        self._failures, self._open_until = 0, None


def guarded(port: T, breaker: Breaker) -> T:
    """The same port, with every asynchronous method but `aclose` behind the breaker."""
    return cast(T, _Guarded(port, breaker))


class _Guarded:
    def __init__(self, port: object, breaker: Breaker) -> None:
        self._port, self._breaker = port, breaker

    def __getattr__(self, name: str) -> Any:
        """Asked once for each name: what it returns is kept on the instance."""
        method, breaker = getattr(self._port, name), self._breaker
        if name == "aclose" or not inspect.iscoroutinefunction(method):
            return method

        async def through(*args: Any, **kwargs: Any) -> Any:
            return await breaker.call(lambda: method(*args, **kwargs))

        setattr(self, name, through)
        return through
