"""`tandem fetch`: releases of a registry elsewhere, copied into a folder that services read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Copy the current release of another registry, and make it the current one here. What is here already is not
    copied again; what was cut off goes on where it stopped. Every file is checked against its manifest."""

    registry: str
    """Where from: a folder, s3://bucket/path or https://host/path. Credentials come from the environment: AWS_*, or
    ~/.netrc for https."""
    out: Path
    """The folder of releases here; made where there is none."""
    release: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """These in place of the current one; repeat it for several. The first becomes the current one here."""
    newest: int = 0
    """Also so many of those that were published last, as for a canary. Not over https."""
    promote: bool = True
    """Make what was fetched the current one here."""
    verify: bool = False
    """Read what is here already, too, and copy again what is damaged."""


def run(args: Fetch) -> None:
    from services.releases.far import Far
    from services.releases.fetch import fetch
    from shared.errors import BadInput
    from shared.registry import Registry

    if args.newest < 0:
        raise BadInput(f"--newest {args.newest}: 0 or more")
    registry = Registry(args.out)
    fetched = fetch(Far(args.registry), registry, args.release, args.newest, args.verify)
    if args.promote:
        registry.point(fetched[0])
    for release in fetched:
        print(release)
