"""That a user was erased must outlast the user, without naming them."""

from __future__ import annotations

from hashlib import blake2b, sha256


class Tombstones:
    """Names by keyed hash. With another secret, erased users would be unknown, and a data folder's history of them
    would come back: the secret stays what it is."""

    def __init__(self, secret: str = "") -> None:
        self._key = sha256(secret.encode()).digest()

    def name(self, tenant: str, user_id: str) -> str:
        # The length keeps ("a", "bc") apart from ("ab", "c").
        text = f"{len(tenant)}:{tenant}{user_id}".encode()
        return blake2b(text, key=self._key, digest_size=16).hexdigest()
