"""API keys for tests: a file, and what a caller sends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from services.http.caller import KeyScope
from services.http.keys import Key, KeyFile, make

ALL: tuple[KeyScope, ...] = ("read", "write", "admin")
PAST = datetime(2020, 1, 1, tzinfo=UTC)


def added(
    path: Path,
    tenant: str = "default",
    scopes: Sequence[KeyScope] = ALL,
    expires: datetime | None = None,
    revoked: datetime | None = None,
    rate: str | None = None,
) -> str:
    """The key that now stands in the file."""
    key_id, sha256, shown = make()
    row = Key(
        id=key_id,
        sha256=sha256,
        tenant=tenant,
        scopes=tuple(scopes),
        created=PAST,
        expires=expires,
        revoked=revoked,
        rate=rate,
    )
    before = KeyFile.read(path).keys if path.exists() else ()
    KeyFile(keys=(*before, row)).write(path)
    return shown


def sent(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
