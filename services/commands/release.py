"""`tandem release publish|list|promote`: what can be served together, and which of it a process starts with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from shared.errors import BadInput

if TYPE_CHECKING:
    from shared.registry import Part, Registry

Folders = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Put a data folder, a retriever and its rankers into a registry, as one release. Prints its id. What is there
    already is not copied again."""

    registry: Path
    """The folder of releases; made where there is none."""
    data: Path
    """The prepared data folder."""
    retriever: Path
    """The retriever's artifact."""
    ranker: Folders = ()
    """A ranker's artifact; repeat it for several, the first is the default."""
    id: str | None = None
    """The release's name, such as 2027-01-31. Default: twelve digits over its content."""
    promote: bool = False
    """Also make it the current one."""


@dataclass(frozen=True, kw_only=True)
class List:
    """Show the releases of a registry, oldest first; > marks the current one."""

    registry: Path
    """The folder of releases."""


@dataclass(frozen=True, kw_only=True)
class Promote:
    """Make a release the one that a process starts with. Reads all of it first: half a release is refused. What runs is
    left alone; a gateway's POST /admin/models changes that."""

    registry: Path
    """The folder of releases."""
    release: tyro.conf.Positional[str]
    """Its id."""


def run(args: Publish | List | Promote) -> None:
    match args:
        case Publish():
            _publish(args)
        case List():
            _list(args)
        case Promote():
            _promote(args)


def _publish(args: Publish) -> None:
    from services.releases.publish import publish
    from shared.registry import Registry

    registry = Registry(args.registry)
    made = publish(registry, args.data, args.retriever, args.ranker, args.id)
    if args.promote:
        registry.promote(made.id)
    print(made.id)


def _list(args: List) -> None:
    from shared.errors import UnknownRelease
    from shared.registry import Registry

    if not args.registry.is_dir():
        raise BadInput(f"--registry {args.registry} is no folder. `tandem release publish` makes one.")
    registry = Registry(args.registry)
    try:
        current = registry.current()
    except UnknownRelease:
        current = ""
    releases = sorted((registry.release(one) for one in registry.ids()), key=lambda one: (one.created, one.id))
    print(f"  {'release':<20}  {'created':<16}  {'catalogue':<12}  {'retriever':<22}  rankers")
    for one in releases:
        mark, rankers = ">" if one.id == current else " ", ", ".join(part.name for part in one.rankers) or "-"
        catalog = _catalog(registry, one.data)
        print(f"{mark} {one.id:<20}  {one.created:%Y-%m-%d %H:%M}  {catalog:<12}  {one.retriever.name:<22}  {rankers}")


def _catalog(registry: Registry, data: Part) -> str:
    from shared.errors import BadArtifact

    try:
        return registry.manifest(data).catalog_fingerprint[:12]
    except BadArtifact:
        return "missing"


def _promote(args: Promote) -> None:
    from shared.registry import Registry

    before = Registry(args.registry).promote(args.release)
    print(f"current: {args.release}" + (f", before it {before}" if before and before != args.release else ""))
