"""API keys: `td_<id>_<secret>`. The file holds a SHA-256 of each, nothing that opens a door.

A slow hash protects what people choose: it makes guessing dear. These secrets have 256 random bits, which nobody
guesses at any speed; a slow hash would only let strangers burn our CPU.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator
from starlette.types import Scope as AsgiScope

from services.http.caller import Caller, KeyScope
from services.http.rates import parse as parse_rate
from shared.artifact import write_text
from shared.errors import BadInput, Unauthorized

PREFIX = "td"
MODE = 0o600
UNKNOWN = "0" * 64
"""What an unknown id is compared with, so that it takes as long as a known one."""
RECHECK_S = 1.0
MAX_PRESENTED = 200
Headers = Mapping[bytes, bytes]

log = structlog.get_logger()

TenantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Key(BaseModel):
    """A row of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: TenantName
    scopes: tuple[KeyScope, ...] = Field(min_length=1)
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    rate: str | None = None

    @field_validator("rate")
    @classmethod
    def _readable(cls, rate: str | None) -> str | None:
        if rate is not None:
            parse_rate(rate)
        return rate

    def why_not(self, now: datetime) -> str | None:
        """Why it opens nothing, or None."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else None


class KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...] = ()

    @classmethod
    def read(cls, path: Path) -> KeyFile:
        """Raises BadInput."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise BadInput(f"cannot read the key file {path}: {error.strerror}. `tandem keys add` makes one.") from None
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise BadInput(
                f"{path} is no key file: {place} {first['msg']}. Mend it, or make it anew with `tandem keys add`."
            ) from None

    def write(self, path: Path) -> None:
        write_text(path, self.model_dump_json(indent=2) + "\n", MODE)


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """One writer at a time: a revocation must not be lost to an addition. Holds a lock on the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def make() -> tuple[str, str, str]:
    """A new key's id, its digest, and the key itself, which is never stored."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return key_id, digest(secret), f"{PREFIX}_{key_id}_{secret}"


def now() -> datetime:
    return datetime.now(UTC)


class Keys:
    """Who asks, by the keys of a file, which is read again when it changes: a new key works and a revoked one stops
    within a second, without a restart. A `door.Known`."""

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.monotonic, wall: Callable[[], datetime] = now
    ) -> None:
        """Raises BadInput."""
        self._path = path
        self._clock, self._wall = clock, wall
        self._check_at = 0.0
        self._stamp: object = None
        self._by_id: dict[str, Key] = {}
        self._seen: dict[bytes, tuple[Key, Caller]] = {}
        self._load()

    def __call__(self, scope: AsgiScope, headers: Headers) -> Caller:
        """Raises Unauthorized."""
        presented = bearer(headers) or headers.get(b"x-api-key")
        if not presented or len(presented) > MAX_PRESENTED:
            raise Unauthorized("no API key; send one as `Authorization: Bearer td_...` or `X-Api-Key: td_...`")
        self._refresh()
        whole = hashlib.sha256(presented).digest()
        key, caller = self._seen.get(whole) or self._find(presented, whole)
        if why := key.why_not(self._wall()):
            raise Unauthorized(f"the key {key.id} is {why}; ask for a new one")
        return caller

    def _find(self, presented: bytes, whole: bytes) -> tuple[Key, Caller]:
        """Remembers what it finds: the next time is one lookup. There are never more of those than keys."""
        prefix, key_id, secret = (*presented.decode("ascii", "replace").split("_", 2), "", "")[:3]
        key = self._by_id.get(key_id)
        same = hmac.compare_digest(digest(secret), key.sha256 if key else UNKNOWN)
        if key is None or not same or prefix != PREFIX:
            raise Unauthorized("this API key is not known here; ask whoever runs this service for one")
        found = self._seen[whole] = key, Caller(key.tenant, key.id, frozenset(key.scopes), key.rate)
        return found

    def _refresh(self) -> None:
        if self._clock() < self._check_at:
            return
        self._check_at = self._clock() + RECHECK_S
        if self._stamp_now() == self._stamp:
            return
        try:
            self._load()
        except BadInput as error:
            log.error("the keys of before stay", reason=str(error))
        else:
            log.info("keys read", keys=len(self._by_id))

    def _load(self) -> None:
        self._stamp = self._stamp_now()
        self._by_id = {key.id: key for key in KeyFile.read(self._path).keys}
        self._seen = {}

    def _stamp_now(self) -> object:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def bearer(headers: Headers) -> bytes | None:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None
