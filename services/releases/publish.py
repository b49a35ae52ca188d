"""From folders that were trained to a release of a registry."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from services.releases.host import LOCAL
from shared.artifact import MANIFEST, Kind, Manifest, open_artifact, sha256, writing
from shared.errors import BadArtifact, BadInput
from shared.registry import Part, Registry, Release, is_release_id, kind_of, require_one_catalog


def publish(
    registry: Registry, data: Path, retriever: Path, rankers: Sequence[Path] = (), release: str | None = None
) -> Release:
    """Copies what is not there whole. Without a name, the release is named by its content, so that publishing the same
    again changes nothing. Raises BadArtifact or one of its kinds, or BadInput for a name that is taken."""
    if release is not None and (not is_release_id(release) or release == LOCAL):
        raise BadInput(
            f"--id {release!r}: a to z and 0 to 9 first, then also . _ and -, at most 64 in all; "
            f"{LOCAL!r} is what a process calls the folders that it was started with"
        )
    kinds: list[tuple[Path, Kind]] = [(data, "data"), (retriever, kind_of(retriever))]
    kinds += [(folder, "ranker") for folder in rankers]
    manifests = [open_artifact(folder, kind) for folder, kind in kinds]
    require_one_catalog("the release", manifests)
    _require_different([manifest.method for manifest in manifests[2:]])
    with registry.writing():
        parts = [_add(registry, folder, one) for (folder, _), one in zip(kinds, manifests, strict=True)]
        made = Release(
            id=release or _named(parts),
            data=parts[0],
            retriever=parts[1],
            rankers=tuple(parts[2:]),
            created=datetime.now(UTC).replace(microsecond=0),
        )
        return registry.add(made)


def _require_different(methods: Sequence[str]) -> None:
    if twice := next((method for method in methods if methods.count(method) > 1), None):
        raise BadInput(f"two rankers are both {twice!r}, and a request names the method that it wants. Give one.")


def _add(registry: Registry, folder: Path, manifest: Manifest) -> Part:
    part = _part(registry, folder, manifest)
    if not _whole(registry.place(part), manifest.kind):
        with writing(registry.place(part)) as draft:
            for name in (*manifest.files, MANIFEST):
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, draft / name)
            open_artifact(draft, manifest.kind)
    return part


def _part(registry: Registry, folder: Path, manifest: Manifest) -> Part:
    """Equal weights that were made twice have one name and two manifests, as after a title was corrected: the second
    has a longer name."""
    digest = sha256(folder / MANIFEST)
    part = Part(name=f"{'data' if manifest.kind == 'data' else manifest.method}@{manifest.version}", sha256=digest)
    there = registry.place(part) / MANIFEST
    if there.is_file() and sha256(there) != digest and _whole(there.parent, manifest.kind):
        return Part(name=f"{part.name}.{digest[:8]}", sha256=digest)
    return part


def _whole(folder: Path, kind: Kind) -> bool:
    try:
        open_artifact(folder, kind)
    except BadArtifact:
        return False
    return True


def _named(parts: Sequence[Part]) -> str:
    return hashlib.sha256(json.dumps([part.sha256 for part in parts]).encode()).hexdigest()[:12]
