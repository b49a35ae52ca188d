"""Long work reports itself: a bar with rate and ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_EVERY_S = 10.0


class Advance(Protocol):
    def __call__(self, done: int = 1, note: str = "") -> None:
        """`done` more units; `note` is the latest fact worth seeing, such as the loss."""
        ...


@contextmanager
def progress(what: str | None, total: int, unit: str, start: int = 0) -> Iterator[Advance]:
    """`start` units were done before (a resumed run). Writes to stderr, so that stdout stays the result.

    what None: work inside work that already shows itself, silent.
    """
    if what is None:
        yield lambda done=1, note="": None
        return
    with (_bar if sys.stderr.isatty() else _lines)(what, total, unit, start) as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int, unit: str, start: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=start, note="", rate="")

        def advance(done: int = 1, note: str = "") -> None:
            speed = bar.tasks[0].speed
            rate = f"{speed:.1f}/s" if speed else ""
            bar.update(task, advance=done, rate=rate)
            if note:
                bar.update(task, note=note)

        yield advance


@contextmanager
def _lines(what: str, total: int, unit: str, start: int) -> Iterator[Advance]:
    began = last = time.monotonic()
    count = start
    latest = ""

    def advance(done: int = 1, note: str = "") -> None:
        nonlocal count, last, latest
        count += done
        latest = note or latest
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S:
            last = now
            rate = (count - start) / (now - began)
            left = (total - count) / rate if rate else float("inf")
            print(f"{what}: {count}/{total} {unit}, {rate:.1f}/s, {left:.0f} s left  {latest}", file=sys.stderr)

    yield advance
    took = time.monotonic() - began
    print(f"{what}: {count}/{total} {unit} in {took:.1f} s  {latest}".rstrip(), file=sys.stderr)
