"""A registry to copy from: a folder, or whatever else fsspec reads, such as s3:// and https://."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import fsspec
import structlog

from shared.errors import BadInput, MissingFile, Unavailable

BLOCK = 4 << 20
CONNECT_S, SILENCE_S = 20, 60
HTTP = ("http", "https")

log = structlog.get_logger()


class CannotResume(Exception):
    """The other side gives the whole of a file or nothing."""


class Far:
    """Credentials come from the environment, as each protocol has it: AWS_* for s3, ~/.netrc for https."""

    def __init__(self, url: str) -> None:
        """Raises BadInput for a protocol that nobody knows, or whose package is missing."""
        self.shown = _without_password(url)
        protocol = urlsplit(url).scheme
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **(_http() if protocol in HTTP else {}))
        except ImportError as error:
            way_out = "pip install 'tandem-rec[fetch]' brings what s3:// and https:// need"
            raise BadInput(f"{self.shown} cannot be read: {error}; {way_out}") from None
        except ValueError as error:
            raise BadInput(f"{self.shown} cannot be read: {error}. Give a folder, s3:// or https://") from None
        self._root = str(root).rstrip("/")
        self._streams = protocol in HTTP

    def read(self, path: str) -> bytes:
        """A small file. Raises MissingFile or Unavailable."""
        with self._reachable(path):
            content: bytes = self._fs.cat_file(self._at(path))
            return content

    def size(self, path: str) -> int:
        """0 where the other side does not say."""
        with self._reachable(path):
            return int(self._fs.size(self._at(path)) or 0)

    def names(self, folder: str) -> list[str]:
        """Of what stands in it. Raises MissingFile or Unavailable."""
        with self._reachable(folder):
            self._fs.invalidate_cache()
            return [str(path).rstrip("/").rpartition("/")[2] for path in self._fs.ls(self._at(folder), detail=False)]

    def blocks(self, path: str, start: int) -> Iterator[bytes]:
        """From byte `start` on. Raises CannotResume, MissingFile or Unavailable, also after some of them."""
        with self._reachable(path):
            try:
                with self._open(path, start) as file:
                    while block := file.read(BLOCK):
                        yield block
            except ValueError as error:  # fsspec's word for a server that knows no ranges
                if start:
                    raise CannotResume(path) from error
                raise

    def _open(self, path: str, start: int) -> IO[bytes]:
        """Over HTTP the whole of it is one request. What follows a place comes in blocks, of which each is one."""
        options: dict[str, Any] = {"block_size": 0} if self._streams and not start else {"block_size": BLOCK}
        file: IO[bytes] = self._fs.open(self._at(path), "rb", **options)
        if start:
            file.seek(start)
        return file

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _reachable(self, path: str) -> Iterator[None]:
        try:
            yield
        except (CannotResume, GeneratorExit):
            raise
        except FileNotFoundError:
            raise MissingFile(f"{self.shown} has no {path}. Publish it there again.") from None
        except Exception as error:  # each protocol has errors of its own
            log.debug("not read", path=path, exc_info=error)
            fault = str(error).splitlines()[0] if str(error) else ""
            raise Unavailable(
                f"{self.shown}: {path} cannot be read: {type(error).__name__}: {fault[:200]}. "
                "What was copied until now is kept; the same command goes on from there."
            ) from error


def _http() -> dict[str, Any]:
    """A model takes longer than the five minutes that aiohttp gives a request."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
