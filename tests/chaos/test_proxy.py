"""The proxy does what it is told to, so that the chaos tests mean something."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.chaos.proxy import Proxy

BODY = b"x" * 10_000


class Whole(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Whole)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with Proxy(server.server_port) as one:
        yield one
    server.shutdown()
    server.server_close()


def get(proxy: Proxy, timeout: float = 5.0) -> bytes:
    return httpx.get(proxy.url, timeout=timeout).content


def test_it_passes_what_comes(proxy: Proxy) -> None:
    assert get(proxy) == BODY
    assert proxy.carried > len(BODY)


def test_it_refuses_and_is_there_again(proxy: Proxy) -> None:
    with httpx.Client() as client:
        client.get(proxy.url)
        proxy.become("refuse")
        with pytest.raises(httpx.TransportError):
            client.get(proxy.url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))
    proxy.become("pass")
    assert get(proxy) == BODY


def test_a_black_hole_takes_everything_and_says_nothing(proxy: Proxy) -> None:
    with httpx.Client(timeout=0.2) as standing:
        standing.get(proxy.url)
        proxy.become("black_hole")
        with pytest.raises(httpx.ReadTimeout):
            standing.get(proxy.url)
    with pytest.raises(httpx.ReadTimeout):
        get(proxy, 0.2)


def test_what_the_black_hole_held_goes_on_its_way(proxy: Proxy) -> None:
    proxy.become("black_hole")
    threading.Timer(0.2, proxy.become, ["pass"]).start()
    assert get(proxy) == BODY


def test_it_delays(proxy: Proxy) -> None:
    proxy.become("delay", seconds=0.1)
    began = time.monotonic()
    assert get(proxy) == BODY
    assert time.monotonic() - began >= 0.2, "there and back"


def test_it_cuts_in_the_middle(proxy: Proxy) -> None:
    proxy.become("cut", after=500)
    with pytest.raises(httpx.TransportError):
        get(proxy)
    assert proxy.carried == 500


def test_it_talks_nonsense(proxy: Proxy) -> None:
    proxy.become("garbage")
    with pytest.raises(httpx.TransportError):
        get(proxy, 0.5)
