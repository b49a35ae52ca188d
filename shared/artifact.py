"""An artifact is a folder: `manifest.json` and the files that it names, each with its sha256.

Written to a temporary name beside its place and renamed, so that a reader sees all of it or nothing.
Nothing in it is ever unpickled: weights are safetensors, tables Parquet, the rest JSON or FAISS's own format.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import BadArtifact, BadInput, ChecksumMismatch, MissingFile

MANIFEST = "manifest.json"
Kind = Literal["data", "retriever", "ranker"]


class Manifest(BaseModel):
    """What an artifact is and what it was made from.

    config: the complete training config.  metrics: measured when it was made.  extra: what a method
    needs to serve (label ids, golden score, blend weight).  files: name -> sha256 of its bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    kind: Kind
    method: str
    config: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    extra: dict[str, Any] = Field(default_factory=dict)
    data_digest: str = ""
    catalog_fingerprint: str = ""
    packages: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def version(self) -> str:
        """Eight hex digits over the content: `lrurec@34cd12ab` in an answer names exactly these weights."""
        identity = json.dumps([self.kind, self.method, self.config, self.extra, self.files], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        return f"{self.method}@{self.version}"


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `folder` when the block ends without an error.

    The folder that stood there before is kept until the new one is complete.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    old = draft.with_name(draft.name + ".old")
    try:
        yield draft
        draft.chmod(0o755)
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(draft, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def trained_elsewhere(manifest: Manifest, digest: str) -> str:
    """What to say where an artifact was trained on other data than those of `digest`, which may be what is meant (a
    model of last month, a catalogue that has grown); else nothing."""
    if manifest.data_digest in ("", digest):
        return ""
    return (
        f"{manifest.name} was trained on other data ({manifest.data_digest[:8]}) than these ({digest[:8]}): what is "
        "held out here it may have seen, and then the numbers flatter it"
    )


def require_replaceable(folder: Path) -> None:
    """Raises BadInput where writing an artifact would delete what is none: `--out .` must not cost a project; and where
    it could not be written."""
    require_writable(folder)
    if folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise BadInput(
            f"{folder} exists and is no artifact: it holds no {MANIFEST}, so that it will not be replaced. "
            "Name a new folder, or remove this one."
        )


def require_writable(path: Path) -> None:
    """Raises BadInput: before the work, not after it."""
    place = next((folder for folder in path.absolute().parents if folder.exists()), path)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise BadInput(f"{path} cannot be written: {place} is no folder that we may write to. Name another place.")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else makes this artifact meanwhile. Raises BadInput where somebody does."""
    require_writable(folder)
    path = folder.absolute().with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                f"{folder} is being written by another process. Wait for it, or name another folder."
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Atomically: `path` holds the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(mode)
            Path(file.name).rename(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def seal(draft: Path, manifest: Manifest) -> Manifest:
    """Adds every file of `draft` with its checksum to the manifest and writes it there."""
    names = sorted(p.relative_to(draft).as_posix() for p in draft.rglob("*") if p.is_file())
    files = {name: sha256(draft / name) for name in names if name != MANIFEST}
    sealed = manifest.model_copy(update={"files": files})
    write_text(draft / MANIFEST, sealed.model_dump_json(indent=2) + "\n")
    return sealed


def open_artifact(folder: Path, kind: Kind, methods: Sequence[str] = ()) -> Manifest:
    """The manifest of a folder whose files are all there and unchanged.

    Raises BadArtifact (no such artifact, or another kind), MissingFile or ChecksumMismatch.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BadArtifact(f"{folder} is no {kind} artifact: it holds no {MANIFEST}. {_way_out(kind)}")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadArtifact(f"{path} cannot be read: {error.errors()[0]['msg']}. {_way_out(kind)}") from None
    if manifest.kind != kind:
        raise BadArtifact(f"{folder} holds a {manifest.kind} artifact where a {kind} is needed.")
    if methods and manifest.method not in methods:
        raise BadArtifact(f"{folder} was made by {manifest.method!r}; this needs one of {', '.join(methods)}.")
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise BadArtifact(f"{path} names a file outside its folder: {name!r}.")
        if not file.is_file():
            raise MissingFile(f"{folder} lacks {name}, which its manifest names. {_way_out(kind)}")
        actual = sha256(file)
        if actual != expected:
            raise ChecksumMismatch(
                f"{file} has sha256 {actual[:12]}, its manifest says {expected[:12]}: "
                f"the file was changed or damaged. {_way_out(kind)}"
            )
    return manifest


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def package_versions(*names: str) -> dict[str, str]:
    """Of the named distributions that are installed, and of Python."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _way_out(kind: Kind) -> str:
    command = {
        "data": "tandem data prepare",
        "retriever": "tandem train retriever",
        "ranker": "tandem train ranker",
    }
    return f"Make it anew with `{command[kind]}`, or copy it again."
