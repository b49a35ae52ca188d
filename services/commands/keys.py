"""`tandem keys add|list|revoke`: the API keys of a gateway. A gateway that serves notices within a second."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from shared.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Add:
    """Make a key and print it, once: the file keeps only its hash."""

    file: Path
    """The key file, which TANDEM_API_KEYS_FILE names; made where there is none."""
    tenant: str
    """Whose data the key opens: 1 to 64 letters, digits, `.`, `_` and `-`."""
    scopes: str = "read,write"
    """What it allows, with commas between: read, write, admin."""
    expires: str | None = None
    """The first moment at which it no longer opens: a date or a time of ISO 8601, UTC where it says nothing else."""
    rate: str | None = None
    """How often it may ask, as 100/second, 5000/minute or 1000/hour. Default: as often as it likes."""


@dataclass(frozen=True, kw_only=True)
class List:
    """Show the keys of a file."""

    file: Path
    """The key file."""


@dataclass(frozen=True, kw_only=True)
class Revoke:
    """Make a key open nothing any more."""

    id: Annotated[str, tyro.conf.Positional]
    """The key's id: what stands between its first two underscores."""
    file: Path
    """The key file."""


def run(args: Add | List | Revoke) -> None:
    match args:
        case Add():
            _add(args)
        case List():
            _list(args)
        case Revoke():
            _revoke(args)


def _add(args: Add) -> None:
    from pydantic import ValidationError

    from services.http.keys import Key, KeyFile, changing, make

    key_id, sha256, shown = make()
    try:
        key = Key.model_validate(
            {
                "id": key_id,
                "sha256": sha256,
                "tenant": args.tenant,
                "scopes": args.scopes.split(","),
                "created": _now(),
                "expires": _moment(args.expires) if args.expires else None,
                "rate": args.rate,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        option, fault = str(first["loc"][0]), first["msg"].removeprefix("Value error, ")
        raise BadInput(f"--{option} {getattr(args, option)!r}: {fault}") from None
    with changing(args.file):
        before = KeyFile.read(args.file).keys if args.file.exists() else ()
        KeyFile(keys=(*before, key)).write(args.file)
    print("The key, which nobody can show again:", file=sys.stderr)
    print(shown)


def _list(args: List) -> None:
    from services.http.keys import KeyFile

    now = datetime.now(UTC)
    print(f"{'id':<12}  {'tenant':<16}  {'scopes':<16}  {'rate':<14}  {'created':<10}  state")
    for key in KeyFile.read(args.file).keys:
        scopes, state = ",".join(key.scopes), key.why_not(now) or _until(key.expires)
        row = f"{key.id:<12}  {key.tenant:<16}  {scopes:<16}  {key.rate or '-':<14}  {key.created:%Y-%m-%d}  {state}"
        print(row)


def _revoke(args: Revoke) -> None:
    from services.http.keys import KeyFile, changing

    with changing(args.file):
        found = KeyFile.read(args.file)
        if not any(key.id == args.id for key in found.keys):
            raise BadInput(f"{args.file} has no key {args.id!r}; `tandem keys list --file {args.file}` shows its ids")
        keys = (
            key.model_copy(update={"revoked": key.revoked or _now()}) if key.id == args.id else key
            for key in found.keys
        )
        KeyFile(keys=tuple(keys)).write(args.file)
    print(f"revoked: {args.id}")


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--expires {text!r} is no date; write it as 2027-01-31 or 2027-01-31T12:00+01:00") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _until(expires: datetime | None) -> str:
    return f"until {expires:%Y-%m-%d %H:%M %Z}" if expires else "valid"
