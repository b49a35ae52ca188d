"""Artifacts of a few bytes, which no model could be loaded from, and servers to fetch them from."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.artifact import Kind, Manifest, seal

CATALOG = "c" * 64


def artifact(folder: Path, kind: Kind, method: str, content: bytes = b"weights", catalog: str = CATALOG) -> Path:
    folder.mkdir(parents=True)
    (folder / "weights.bin").write_bytes(content)
    (folder / "more").mkdir()
    (folder / "more" / "table.bin").write_bytes(b"table of " + content[:100])
    seal(folder, Manifest(kind=kind, method=method, catalog_fingerprint=catalog, data_digest="d" * 64))
    return folder


def folders(where: Path, content: bytes = b"weights") -> tuple[Path, Path, list[Path]]:
    """A data folder, a retriever and two rankers; `content` is the retriever's."""
    return (
        artifact(where / "data", "data", "table"),
        artifact(where / "lrurec", "retriever", "lrurec", content),
        [artifact(where / name, "ranker", name) for name in ("llamarec", "collm")],
    )


class Handler(http.server.SimpleHTTPRequestHandler):
    """Knows ranges, where the server says so; notes what was asked; hangs up after `cut` bytes of a file, once."""

    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range") or ""
        self.server.asked.append((self.path, asked))
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start, end = 0, len(content)
        if asked and self.server.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            start, end = int(first), min(int(last) + 1, len(content)) if last else len(content)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end - start))
        if not self.server.ranges:
            self.send_header("Accept-Ranges", "none")
        self.end_headers()
        if self.server.cut and end - start > self.server.cut:
            end, self.server.cut = start + self.server.cut, 0
            self.close_connection = True
        self.wfile.write(content[start:end])

    def do_HEAD(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        if not self.server.ranges:
            self.send_header("Accept-Ranges", "none")
        self.end_headers()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path, ranges: bool) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.ranges = ranges
        self.cut = 0
        self.asked: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(folder: Path, ranges: bool = True) -> Iterator[Server]:
    with Server(folder, ranges) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
