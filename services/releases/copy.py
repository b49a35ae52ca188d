"""One artifact from another registry, beside its place until all of it is there and right."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from services.releases.far import CannotResume, Far
from shared.artifact import MANIFEST, sha256
from shared.errors import BadArtifact, ChecksumMismatch, Unavailable
from shared.registry import ARTIFACTS, Part, Registry, manifest_of

TRIES = 4
PAUSE_S = 2.0
"""Before the second try; twice as long before each that follows."""
SUFFIX = ".part"

Count = Callable[[int], None]
"""Hears of bytes that are there, also of those that an earlier run left."""


class Copy:
    """Raises MissingFile, ChecksumMismatch, BadArtifact or Unavailable; what was copied until then is kept for the
    next run."""

    def __init__(self, far: Far, registry: Registry, part: Part) -> None:
        self._far = far
        self._place = registry.place(part)
        self._draft = self._place.with_name(f".{part.name}{SUFFIX}")
        self._from = f"{ARTIFACTS}/{part.name}"
        self._content = far.read(f"{self._from}/{MANIFEST}")
        self._manifest = manifest_of(self._content, part, f"{far.shown}/{self._from}/{MANIFEST}")
        for name in self._manifest.files:
            _require_inside(name, part)

    def size(self) -> int:
        """Bytes, as far as the other side says."""
        return sum(self._far.size(f"{self._from}/{name}") for name in self._manifest.files)

    def run(self, count: Count) -> None:
        self._draft.mkdir(parents=True, exist_ok=True)
        for name, digest in self._manifest.files.items():
            self._file(name, digest, count)
        for stray in set(self._draft.rglob("*")) - {self._draft / name for name in self._manifest.files}:
            if stray.is_file():
                stray.unlink()
        (self._draft / MANIFEST).write_bytes(self._content)
        self._swap()

    def _swap(self) -> None:
        old = self._draft.with_suffix(".old")
        shutil.rmtree(old, ignore_errors=True)
        if self._place.exists():
            self._place.rename(old)
        self._draft.rename(self._place)
        shutil.rmtree(old, ignore_errors=True)

    def _file(self, name: str, digest: str, count: Count) -> None:
        target = self._draft / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file() and sha256(target) == digest:
            count(target.stat().st_size)
            return
        part = target.with_name(target.name + SUFFIX)
        resumed = part.exists() and part.stat().st_size > 0
        actual = self._patiently(name, part, count)
        if actual != digest and resumed:  # it was begun with other bytes
            part.unlink()
            actual = self._patiently(name, part, lambda size: None)
        if actual != digest:
            part.unlink()
            raise ChecksumMismatch(
                f"{self._far.shown}/{self._from}/{name} has sha256 {actual[:12]}, its manifest says {digest[:12]}. "
                "Publish it there again; nothing of it was used."
            )
        part.rename(target)

    def _patiently(self, name: str, part: Path, count: Count) -> str:
        """Its sha256, once all of it is in `part`."""
        for attempt in range(1, TRIES + 1):
            try:
                self._append(name, part, count)
                return sha256(part)
            except CannotResume:
                part.unlink()
            except Unavailable:
                if attempt == TRIES:
                    raise
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
        raise Unavailable(f"{self._far.shown}/{self._from}/{name} was cut off {TRIES} times")

    def _append(self, name: str, part: Path, count: Count) -> None:
        start = part.stat().st_size if part.exists() else 0
        count(start)
        with part.open("ab") as sink:
            for block in self._far.blocks(f"{self._from}/{name}", start):
                sink.write(block)
                count(len(block))


def _require_inside(name: str, part: Part) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name == MANIFEST:
        raise BadArtifact(
            f"the manifest of {part.name} names {name!r}, which is no file of its own. Nothing was copied."
        )
