from __future__ import annotations

import os
import signal
import threading

import pytest

from shared import checkpoints
from shared.checkpoints import checkpointed


def run(saved: list[int], sent: dict[int, list[int]]) -> None:
    """Three steps, during which signals come: step -> their numbers."""
    step = 0
    with checkpointed(lambda: saved.append(step)) as between:
        for step in range(1, 4):
            for number in sent.get(step, []):
                os.kill(os.getpid(), number)
            between()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step_and_saves(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    saved: list[int] = []
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(saved, {2: [number]})
    assert saved == [2]
    assert "stopping after this step" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_second_signal_waits_for_nothing() -> None:
    saved: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run(saved, {1: [signal.SIGINT, signal.SIGINT]})
    assert saved == []


def test_it_is_saved_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    run(saved, {})
    assert saved == []
    monkeypatch.setattr(checkpoints, "EVERY_S", 0.0)
    run(saved, {})
    assert saved == [1, 2, 3]


def test_in_another_thread_signals_are_the_main_ones() -> None:
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=run, args=([], {}))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
