"""Which users a canary takes: always the same ones, and others for each experiment."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from services.gateway.cache.keys import digest

DIGEST_BYTES = 8
WHOLE = 1 << (8 * DIGEST_BYTES)


class Split:
    """A share of all users, the sessions of unknown ones, and the histories of those who have neither. A larger share
    of the same experiment holds the users of the smaller one."""

    def __init__(self, experiment: str, share: float) -> None:
        # No name holds a zero byte.
        self._salted = blake2b(experiment.encode() + b"\0", digest_size=DIGEST_BYTES)
        self._bound = int(share * WHOLE)

    def takes(
        self, tenant: str, user_id: str | None, session_id: str | None = None, history: Sequence[str] | None = None
    ) -> bool:
        kind, who = ("user", user_id) if user_id is not None else ("session", session_id)
        if who is None:
            kind, who = "history", digest(history or ()).hex()
        salted = self._salted.copy()
        salted.update(f"{kind}\0{tenant}\0{who}".encode("utf-8", "surrogatepass"))
        return int.from_bytes(salted.digest(), "big") < self._bound
