"""One line per request, with what its handlers noted; and nothing of what users send."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from services.http.logs import BATCH_S, MAX_LINES, Lines, hashed
from services.http.observe import note

pytestmark = pytest.mark.anyio

PROBE = """
import asyncio, sys
from pathlib import Path
from services.http import logs
from services.gateway.settings import GatewaySettings
from tests.services.asgi import client, embedded_app
from tests.services.keys import added, sent

JSON = {"Content-Type": "application/json"}

async def main(file):
    logs.configure("info")
    key = added(file, "shop")
    print(key)
    app = embedded_app(GatewaySettings(api_keys_file=file))
    async with client(app) as http:
        ask = {"user_id": "SECRET-USER", "session_id": "SECRET-SESSION", "include": ["metadata"]}
        await http.post("/recommend", json=ask, headers=sent(key) | {"X-Request-Id": "first"})
        await http.post("/recommend", json={"history": ["SECRET-ITEM\\x00"]}, headers=sent(key))
        await http.post("/recommend", content=rb'{"SECRET-\\ud800":1}', headers=sent(key) | JSON)
        await http.get("/users/SECRET-USER/history?SECRET-QUERY", headers=sent(key))
        await http.get("/SECRET-PATH", headers=sent(key))
        await http.get("/models", headers=sent("td_000000000000_SECRET-KEY"))
        await http.get("/livez")

asyncio.run(main(Path(sys.argv[1]) / "keys.json"))
"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The API key, and what a process left on stderr."""
    command = [sys.executable, "-c", PROBE, str(tmp_path_factory.mktemp("keys"))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip(), done.stderr


def requests(text: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["event"] == "request"]


def test_every_request_but_the_probes_leaves_one_line(probed: tuple[str, str]) -> None:
    lines = requests(probed[1])
    assert [line["status"] for line in lines] == [200, 422, 422, 404, 404, 401]
    assert [line["route"] for line in lines[:5]] == ["/recommend"] * 3 + ["/users/{user_id:path}/history", "unmatched"]
    assert len({line["request_id"] for line in lines}) == 6


def test_a_line_says_whose_key_it_was_and_not_the_key(probed: tuple[str, str]) -> None:
    key, text = probed
    first = requests(text)[0]
    assert (first["request_id"], first["key"], first["method"]) == ("first", key.split("_")[1], "POST")
    assert key.split("_", 2)[2] not in text


def test_nothing_that_a_user_sent_stands_in_the_log(probed: tuple[str, str]) -> None:
    assert "SECRET" not in probed[1]
    assert "Title" not in probed[1]


def test_a_note_outside_of_a_request_does_nothing() -> None:
    note(anything=1)


class Stalled(io.BytesIO):
    """A reader of stderr that reads no more until `release` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def write(self, data: Any) -> int:
        self.release.wait(30)
        return super().write(data)


async def test_a_reader_that_stalls_stalls_nobody_and_bounds_what_waits() -> None:
    out = Stalled()
    lines = Lines(out)
    lines({"n": "first"})
    await asyncio.sleep(BATCH_S * 2)
    for n in range(MAX_LINES + 7):
        lines({"n": n})
    out.release.set()
    for _ in range(200):
        if b"lines lost" in out.getvalue():
            break
        await asyncio.sleep(BATCH_S)
    written = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["n"] for line in written[:2]] == ["first", 0]
    assert len(written) == 1 + MAX_LINES + 1
    assert written[-1]["lines"] == 7


async def test_what_utf8_cannot_carry_is_written_all_the_same() -> None:
    out = io.BytesIO()
    lines = Lines(out)
    lines({"odd": "\ud800", "object": object})
    lines._last()
    assert json.loads(out.getvalue())["odd"] == "\ud800"


def test_a_user_id_is_hashed_with_the_salt() -> None:
    assert hashed("u1", "salt") == hashed("u1", "salt") != hashed("u1", "other")
    assert "u1" not in str(hashed("u1", "salt"))
    assert hashed(None, "salt") is None
