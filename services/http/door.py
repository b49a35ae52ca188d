"""The door: who asks is known before anything is read of what he asks, and how often is counted."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from services.http.caller import CALLER, EVERYBODY, Caller
from services.http.health import METRICS, PROBES
from services.http.keys import Headers, Keys, bearer
from services.http.logs import note
from services.http.problems import REQUEST_ID, of_error
from services.http.rates import Rates
from shared.errors import BadInput, TandemError, Unauthorized

Known = Callable[[Scope, Headers], Caller]
"""Who asks, by the headers. Raises Unauthorized."""
SCRAPER = Caller("default", "metrics", frozenset({"admin"}))
"""Who has the token for /metrics, and no other route."""


def everybody(scope: Scope, headers: Headers) -> Caller:
    """A `Known` for where no keys are set."""
    return EVERYBODY


def by_keys(file: Path | None) -> Known:
    """Everybody is let in where there is no file. Raises BadInput for one that cannot be read."""
    return Keys(file) if file else everybody


class Door:
    def __init__(self, app: ASGIApp, known: Known, rates: Rates, metrics_token: str | None) -> None:
        self.app = app
        self._known = known
        self._rates = rates
        self._metrics_token = metrics_token.encode() if metrics_token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            return await self.app(scope, receive, send)
        try:
            caller = scope[CALLER] = self._caller(scope)
            if caller.rate is not None:
                await self._rates.take(caller)
        except TandemError as error:
            return await of_error(error, scope.get(REQUEST_ID))(scope, receive, send)
        return await self.app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller:
        headers = dict(scope["headers"])
        if self._metrics_token is not None and scope["path"] == METRICS:
            if hmac.compare_digest(bearer(headers) or b"", self._metrics_token):
                return SCRAPER
            if self._known is everybody:
                raise Unauthorized("/metrics needs `Authorization: Bearer` with the value of TANDEM_METRICS_TOKEN")
        caller = self._known(scope, headers)
        if caller is not EVERYBODY:
            note(key=caller.key_id)
        return caller


def require_closed(host: str, locked: bool, allow_open: bool, way_out: str) -> None:
    """Nothing that lets everybody in listens to a network by accident. Raises BadInput."""
    if not (locked or allow_open or _loopback(host)):
        raise BadInput(
            f"--host {host} would let everybody who reaches it in. {way_out}, or listen at 127.0.0.1, or set "
            "TANDEM_ALLOW_OPEN=true where something before it keeps strangers out."
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
