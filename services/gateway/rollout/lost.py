"""Notices that a service has lost a release: a replica was restarted, or a new one has come."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from shared.errors import ReleaseNotLoaded

T = TypeVar("T")


def noticing(port: T, lost: Callable[[], None]) -> T:
    """The same port; `lost` hears of every ReleaseNotLoaded, also of those that a second question makes good."""
    return cast(T, _Noticing(port, lost))


class _Noticing:
    def __init__(self, port: object, lost: Callable[[], None]) -> None:
        self._port, self._lost = port, lost

    def __getattr__(self, name: str) -> Any:
        """Asked once for each name: what it returns is kept on the instance."""
        method = getattr(self._port, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def through(*args: Any, **kwargs: Any) -> Any:
            try:
                return await method(*args, **kwargs)
            except ReleaseNotLoaded:
                self._lost()
                raise

        setattr(self, name, through)
        return through
