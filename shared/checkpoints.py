"""When a long run is saved: every few minutes, and before it ends early. Ctrl-C waits for the step that runs."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EVERY_S = 120.0


@contextmanager
def checkpointed(save: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """To be called between two steps: saves where the last time is EVERY_S ago; after SIGINT or SIGTERM saves and
    raises KeyboardInterrupt. A second signal raises it at once, wherever the run is."""
    asked, saved = False, time.monotonic()

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("stopping after this step; once more to stop at once", file=sys.stderr)

    def between() -> None:
        nonlocal saved
        if asked or time.monotonic() - saved >= EVERY_S:
            save()
            saved = time.monotonic()
        if asked:
            raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM) if here}
    try:
        yield between
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
