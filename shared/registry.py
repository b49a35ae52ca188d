"""A registry is a folder of artifacts under names made of their content, and of releases, each of which names some.

    artifacts/<name>/        a prepared data folder, a retriever or a ranker: `lrurec@34cd12ab`
    releases/<id>.json       one data folder, one retriever, any number of rankers: what is served and changed together
    current                  the id of the release that a process starts with

Nothing in it is ever changed but `current`: a release that is there is there whole, and stays what it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from shared.artifact import MANIFEST, Kind, Manifest, open_artifact, write_text
from shared.errors import BadArtifact, BadInput, CatalogMismatch, ChecksumMismatch, MissingFile, UnknownRelease
from shared.wire.inner import ReleaseId

ARTIFACTS, RELEASES, CURRENT = "artifacts", "releases", "current"
COPY_AGAIN = "Publish it again, or copy it again with `tandem fetch --verify`."


class Part(BaseModel):
    """sha256: of the artifact's manifest, which holds those of its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*@[0-9a-f]{8}(\.[0-9a-f]{8})?$")]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Release(BaseModel):
    """The first ranker is the default one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    id: ReleaseId
    data: Part
    retriever: Part
    rankers: tuple[Part, ...] = ()
    created: datetime

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.data, self.retriever, *self.rankers)


class Registry:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def release(self, release: str) -> Release:
        """Raises UnknownRelease, or BadArtifact for one that cannot be read."""
        path = self.path_of(release)
        try:
            return parse(path.read_bytes(), release, str(path))
        except FileNotFoundError:
            known = ", ".join(self.ids()[-8:]) or "no release at all"
            raise UnknownRelease(
                f"{self.folder} holds no release {release!r}; it holds {known}. Make it with `tandem release publish`, "
                "or copy it with `tandem fetch`."
            ) from None

    def ids(self) -> list[str]:
        """In alphabetical order."""
        return sorted(path.stem for path in (self.folder / RELEASES).glob("*.json") if not path.name.startswith("."))

    def current(self) -> str:
        """Raises UnknownRelease where none is."""
        try:
            return (self.folder / CURRENT).read_text().strip()
        except FileNotFoundError:
            raise UnknownRelease(
                f"{self.folder} has no current release. Say which with `tandem release promote`, "
                "or copy one with `tandem fetch`."
            ) from None

    def current_data(self) -> Path:
        """The data folder of the current release. Raises as `release` does."""
        return self.place(self.release(self.current()).data)

    def promote(self, release: str) -> str | None:
        """Makes it the current one, and returns which one was. Raises UnknownRelease or BadArtifact: what is promoted
        is there whole."""
        self.check(release)
        return self.point(release)

    def point(self, release: str) -> str | None:
        """`promote` without a look at it, for who has just looked."""
        before = self.current() if (self.folder / CURRENT).exists() else None
        write_text(self.folder / CURRENT, release + "\n")
        return before

    def whole(self, release: str) -> Release:
        """What it names is there, and of one catalogue; what is in the files is for `open_artifact` to check. Raises
        UnknownRelease, or BadArtifact or one of its kinds."""
        found = self.release(release)
        require_one_catalog(f"release {release!r}", [self.manifest(part) for part in found.parts])
        return found

    def check(self, release: str) -> Release:
        """`whole`, and every byte of it."""
        found = self.whole(release)
        for part in found.parts:
            open_artifact(self.place(part), self.manifest(part).kind)
        return found

    def manifest(self, part: Part) -> Manifest:
        """Raises MissingFile, ChecksumMismatch or BadArtifact."""
        path = self.place(part) / MANIFEST
        if not path.is_file():
            raise MissingFile(f"{self.folder} lacks {ARTIFACTS}/{part.name}, which a release names. {COPY_AGAIN}")
        return manifest_of(path.read_bytes(), part, str(path))

    def place(self, part: Part) -> Path:
        return self.folder / ARTIFACTS / part.name

    def path_of(self, release: str) -> Path:
        """Raises UnknownRelease for what is no release's id, and so perhaps a way out of the folder."""
        if not is_release_id(release):
            raise UnknownRelease(f"{release[:80]!r} is no release id: a to z, 0 to 9, and . _ - within, at most 64")
        return self.folder / RELEASES / f"{release}.json"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time; readers need not wait."""
        for name in (ARTIFACTS, RELEASES):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def add(self, made: Release) -> Release:
        """Returns the one that is there, where it has the same parts. Raises BadInput where it has others."""
        path = self.path_of(made.id)
        if path.exists():
            there = self.release(made.id)
            if there.parts != made.parts:
                raise BadInput(f"{path} exists and is another release; a release never changes. Give another --id.")
            return there
        write_text(path, made.model_dump_json(indent=2) + "\n")
        return made


def parse(content: bytes, release: str, where: str) -> Release:
    """Raises BadArtifact, naming where it was read."""
    try:
        found = Release.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "it"
        raise BadArtifact(f"{where} cannot be read: {field}: {first['msg']}. {COPY_AGAIN}") from None
    if found.id != release:
        raise BadArtifact(f"{where} says that it is the release {found.id!r}. {COPY_AGAIN}")
    return found


def manifest_of(content: bytes, part: Part, where: str) -> Manifest:
    """Raises ChecksumMismatch or BadArtifact, naming where it was read."""
    actual = hashlib.sha256(content).hexdigest()
    if actual != part.sha256:
        raise ChecksumMismatch(f"{where} has sha256 {actual[:12]}, its release says {part.sha256[:12]}. {COPY_AGAIN}")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BadArtifact(f"{where} cannot be read: {error.errors()[0]['msg']}. {COPY_AGAIN}") from None


def is_release_id(text: str) -> bool:
    return re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", text) is not None


def kind_of(folder: Path) -> Kind:
    """Of what is to be the first stage or a ranker: RecLLM's artifact is a ranker's that can be both."""
    try:
        return "ranker" if json.loads((folder / MANIFEST).read_bytes())["kind"] == "ranker" else "retriever"
    except (OSError, ValueError, KeyError, TypeError):
        return "retriever"  # whose loader then tells in full what is wrong


def require_one_catalog(release: str, manifests: Sequence[Manifest]) -> None:
    """Raises CatalogMismatch."""
    data, *models = manifests
    for model in models:
        if model.catalog_fingerprint != data.catalog_fingerprint:
            raise CatalogMismatch(
                f"{release}: {model.name} was made for catalogue {model.catalog_fingerprint[:12]}, the data folder "
                f"holds {data.catalog_fingerprint[:12]}. Train it on this data folder, or name the other one."
            )
