"""Copies releases of another registry: what is missing, by checksum, and on from where an earlier try was cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.releases.copy import Copy
from services.releases.far import Far
from shared.artifact import open_artifact
from shared.errors import BadArtifact, BadInput, MissingFile, Unavailable, UnknownRelease
from shared.progress import Advance, progress
from shared.registry import CURRENT, RELEASES, Part, Registry, Release, is_release_id, parse

MB = 1_000_000


def fetch(far: Far, registry: Registry, ids: Sequence[str] = (), newest: int = 0, verify: bool = False) -> list[str]:
    """The releases `ids`, else the current one, and beside them the `newest` ones; their ids, in that order. Each is
    there whole, or not at all. verify: what is there already is read, and copied again where it is damaged.

    Raises UnknownRelease, BadArtifact or one of its kinds, Unavailable, or BadInput where a release of that name and
    other content is there.
    """
    wanted = [_release(far, one) for one in ids or (current(far),)]
    wanted += [one for one in _newest(far, newest) if one not in wanted]
    try:
        with registry.writing():
            for release in wanted:
                _copy(far, registry, release, verify)
    except OSError as error:
        raise Unavailable(f"{registry.folder} cannot be written: {error}. Make room, or give another --out.") from error
    return [release.id for release in wanted]


def current(far: Far) -> str:
    """Raises UnknownRelease or Unavailable."""
    try:
        found = far.read(CURRENT).decode(errors="replace").strip()
    except MissingFile:
        raise UnknownRelease(
            f"{far.shown} has no current release. Say which with --release, or promote one there."
        ) from None
    if not is_release_id(found):
        raise BadArtifact(f"{far.shown}/{CURRENT} holds {found[:80]!r}, which is no release id. Promote one there.")
    return found


def _release(far: Far, release: str) -> Release:
    if not is_release_id(release):
        raise UnknownRelease(f"{release[:80]!r} is no release id: a to z, 0 to 9, and . _ - within, at most 64")
    path = f"{RELEASES}/{release}.json"
    try:
        return parse(far.read(path), release, f"{far.shown}/{path}")
    except MissingFile:
        raise UnknownRelease(f"{far.shown} has no release {release!r}. Publish it there first.") from None


def _newest(far: Far, count: int) -> list[Release]:
    if not count:
        return []
    try:
        names = far.names(RELEASES)
    except MissingFile:
        raise BadInput(f"{far.shown} does not list its releases: name them with --release.") from None
    ids = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    releases = [_release(far, one) for one in ids if is_release_id(one)]
    return sorted(releases, key=lambda one: (one.created, one.id), reverse=True)[:count]


def _copy(far: Far, registry: Registry, release: Release, verify: bool) -> None:
    missing = [Copy(far, registry, part) for part in release.parts if not _is_there(registry, part, verify)]
    if missing:
        with progress(f"fetching {release.id}", sum(one.size() for one in missing) // MB, "MB") as advance:
            count = _in_megabytes(advance)
            for one in missing:
                one.run(count)
    registry.add(release)
    registry.whole(release.id)


def _is_there(registry: Registry, part: Part, verify: bool) -> bool:
    try:
        manifest = registry.manifest(part)
        if verify:
            open_artifact(registry.place(part), manifest.kind)
    except BadArtifact:
        return False
    return True


def _in_megabytes(advance: Advance) -> Callable[[int], None]:
    done = 0

    def count(size: int) -> None:
        nonlocal done
        before, done = done, done + size
        advance(done // MB - before // MB)

    return count
