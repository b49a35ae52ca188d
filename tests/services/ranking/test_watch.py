"""An engine that is dead ends its process: unready first, then status 70, and the next process is a clean one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from services.ranking import watch
from services.ranking.watch import EXIT, watched
from tests import fakes
from tests.e2e.processes import Service, running

QUESTION = {
    "history": ["i1"],
    "candidates": [{"item_id": "i2", "score": 0.0}],
    "catalog": fakes.catalog(60).fingerprint(),
}


@pytest.mark.anyio
async def test_it_ends_the_process_after_a_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.01)
    monkeypatch.setattr(watch, "GRACE_S", 0.05)
    reasons: list[str | None] = [None]
    ended: list[int] = []
    async with watched(lambda: reasons[0], ended.append):
        await asyncio.sleep(0.05)
        assert not ended
        reasons[0] = "it hangs"
        await asyncio.sleep(0.02)
        assert not ended
        await asyncio.sleep(0.3)
        assert ended == [EXIT]


@pytest.mark.parametrize("fault", ["die", "hang"])
def test_a_ranking_process_whose_engine_is_dead_is_unready_ends_and_starts_clean(tmp_path: Path, fault: str) -> None:
    told = tmp_path / "fault"
    service = Service("ranking", tmp_path, FAKE_FAULT=str(told), TANDEM_ENGINE_HANG_S="0.5")
    with running(service):
        told.write_text(fault)
        with pytest.raises((httpx.HTTPStatusError, httpx.HTTPError)):
            httpx.post(service.url + "/rank", json=QUESTION, timeout=1.0).raise_for_status()
        began = time.monotonic()
        unready = False
        while service.process.poll() is None and time.monotonic() - began < 20:
            try:
                unready |= httpx.get(service.url + "/readyz", timeout=1).status_code == 503
            except httpx.HTTPError:
                break
            time.sleep(0.05)
        assert unready
        assert service.process.wait(20) == EXIT
        told.unlink()
        service.restart()
        assert httpx.post(service.url + "/rank", json=QUESTION).status_code == 200
