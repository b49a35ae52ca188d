"""Who is asking: the door puts it into the ASGI scope, a route declares the scope it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args

from fastapi import Depends, params
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope as AsgiScope

from shared.errors import Forbidden

KeyScope = Literal["read", "write", "admin"]
Scope = Literal[KeyScope, "internal"]
"""internal: the routes of retrieval and ranking, which only a gateway calls."""
SCOPES: Final[frozenset[Scope]] = frozenset(get_args(Scope))
CALLER: Final = "tandem.caller"
"""Where the caller stands in an ASGI scope."""


@dataclass(frozen=True, slots=True)
class Caller:
    tenant: str
    key_id: str
    scopes: frozenset[Scope]
    rate: str | None = None
    """As in `100/second`; None for no bound."""


EVERYBODY = Caller("default", "none", SCOPES)
"""Who asks where no keys are set."""


def caller_of(request: HTTPConnection) -> Caller:
    """A KeyError means an application without a door, which would be a bug of ours."""
    found: Caller = request.scope[CALLER]
    return found


async def tenant_of(request: Request) -> str:
    """A FastAPI dependency; asynchronous, since FastAPI sends a plain function to a thread."""
    return caller_of(request).tenant


Tenant = Annotated[str, Depends(tenant_of)]


def require(scope: AsgiScope, needed: Scope) -> None:
    """Raises Forbidden."""
    caller: Caller = scope[CALLER]
    if needed not in caller.scopes:
        raise Forbidden(f"this needs a key with the scope {needed}; the key {caller.key_id} does not have it")


class Needs:
    """The dependency behind `needs`. A `Route` takes it out and checks before the body is read."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> None:
        require(request.scope, self.scope)


def needs(scope: Scope) -> params.Depends:
    """For `dependencies=[needs("read")]` of a router or a route."""
    depends: params.Depends = Depends(Needs(scope))
    return depends
