"""Calls between services: signed with a secret that they share, over all that they say.

Whoever reads a call can send it again for WINDOW_S; what the inner services do may be done twice.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Sequence

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.http.caller import SCOPES, Caller
from services.http.door import Known, everybody
from services.http.intake import CLOSE
from services.http.keys import Headers
from shared.deadline import HEADER as DEADLINE
from shared.errors import Unauthorized

HEADER = "X-Tandem-Signature"
WINDOW_S = 30
VERSION = b"v1"
DIGEST = "tandem.signed_digest"
"""In an ASGI scope: the SHA-256 that the body must have."""
GATEWAY = Caller("default", "gateway", SCOPES)

_header, _deadline = HEADER.lower().encode(), DEADLINE.lower().encode()


def sign(secret: bytes, method: str, target: bytes, deadline: str, body: bytes) -> str:
    """The header's value. `target` is path and query as they are sent."""
    at, digest = b"%d" % time.time(), hashlib.sha256(body).hexdigest().encode()
    return b".".join((at, digest, _mac(secret, method, target, at, deadline.encode(), digest))).decode()


def _mac(secret: bytes, method: str, target: bytes, at: bytes, deadline: bytes, digest: bytes) -> bytes:
    message = b"\n".join((VERSION, method.encode(), target, at, deadline, digest))
    return hmac.digest(secret, message, "sha256").hex().encode()


class Signed:
    """Lets in who knows one of the secrets: two of them while one replaces the other. A `door.Known`."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = secrets

    def __call__(self, scope: Scope, headers: Headers) -> Caller:
        at, digest, mac = (*headers.get(_header, b"").split(b"."), b"", b"", b"")[:3]
        if not (at.isdigit() and len(at) < 12 and abs(time.time() - int(at)) <= WINDOW_S):
            raise Unauthorized(
                f"no {HEADER}, or one older than {WINDOW_S} s: only a gateway calls this, or compare clocks"
            )
        query = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
        deadline = headers.get(_deadline, b"")
        macs = [_mac(secret, scope["method"], target, at, deadline, digest) for secret in self._secrets]
        if not any(hmac.compare_digest(mac, right) for right in macs):
            raise Unauthorized(f"{HEADER} does not fit: TANDEM_INTERNAL_SECRET must be the same in all services")
        scope[DIGEST] = digest
        return GATEWAY


def by_signature(secrets: Sequence[bytes]) -> Known:
    """How an inner service knows who asks: everybody is let in where there is no secret."""
    return Signed(secrets) if secrets else everybody


class SignedBody:
    """The body must be the one that was signed; it is hashed as it comes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (expected := scope.get(DIGEST)) is None:
            return await self.app(scope, receive, send)
        so_far = hashlib.sha256()

        async def hashed() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                so_far.update(message.get("body", b""))
                if not message.get("more_body", False) and so_far.hexdigest().encode() != expected:
                    raise HTTPException(401, f"the body is not the one that {HEADER} was made for", CLOSE)
            return message

        return await self.app(scope, hashed, send)
