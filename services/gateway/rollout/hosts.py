"""Where releases are loaded: the two inner services, over HTTP. In one process their own host objects fit."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import httpx

from services.gateway.ports import RankingPort, ReleasesPort, RetrievalPort
from services.gateway.remote import Remote, RemoteRanking, RemoteRetrieval
from shared.deadline import Deadline
from shared.errors import BadArtifact, DeadlineExceeded, Unavailable
from shared.wire.inner import ReleaseCard, ReleaseList

T = TypeVar("T")
Port = TypeVar("Port", RetrievalPort, RankingPort)
HOSTS_AT_ONCE = 8
AGAIN_S = 0.5
"""A load that outlasts one call goes on in the service: the same call again finds it under way, or done."""


@dataclass(frozen=True, slots=True)
class Hosts:
    retrieval: ReleasesPort[RetrievalPort]
    ranking: ReleasesPort[RankingPort]


def over_http(to_retrieval: httpx.AsyncClient, to_ranking: httpx.AsyncClient) -> Hosts:
    return Hosts(
        RemoteHost("retrieval", to_retrieval, lambda prefix: RemoteRetrieval(to_retrieval, prefix)),
        RemoteHost("ranking", to_ranking, lambda prefix: RemoteRanking(to_ranking, prefix)),
    )


class RemoteHost(Remote, Generic[Port]):
    """Asks every address that the service's name resolves to: a headless service of Kubernetes has one per replica."""

    def __init__(self, name: str, client: httpx.AsyncClient, bind: Callable[[str], Port]) -> None:
        super().__init__(name, client, HOSTS_AT_ONCE)
        self._bind: Callable[[str], Port] = bind

    def port(self, release: str | None) -> Port:
        return self._bind(f"/releases/{release}" if release else "")

    async def load(self, release: str, deadline: Deadline) -> ReleaseCard:
        cards = await self._everywhere(lambda address: self._load(address, release, deadline))
        if any(card != cards[0] for card in cards):
            raise BadArtifact(
                f"the replicas of the {self._name} service have loaded different models as {release!r}: "
                "let them read one registry"
            )
        return cards[0]

    async def unload(self, release: str, deadline: Deadline) -> None:
        await self._everywhere(lambda address: self._at(address, "DELETE", f"/releases/{release}", deadline))

    async def loaded(self, deadline: Deadline) -> ReleaseList:
        """What every replica has loaded; `live` is the first one's."""

        async def at(address: str) -> ReleaseList:
            return self._read(await self._at(address, "GET", "/releases", deadline), ReleaseList)

        first, *others = await self._everywhere(at)
        in_others = [{card.release for card in one.releases} for one in others]
        common = [card for card in first.releases if all(card.release in one for one in in_others)]
        return ReleaseList(releases=common, live=first.live)

    async def _load(self, address: str, release: str, deadline: Deadline) -> ReleaseCard:
        while True:
            try:
                return self._read(await self._at(address, "PUT", f"/releases/{release}", deadline), ReleaseCard)
            except DeadlineExceeded:
                if deadline.expired:
                    raise
            await asyncio.sleep(min(AGAIN_S, deadline.remaining_s()))

    async def _at(self, address: str, method: str, path: str, deadline: Deadline) -> httpx.Response:
        base = self._client.base_url
        url = base.copy_with(host=address, raw_path=base.raw_path.rstrip(b"/") + path.encode())
        # The name is what a certificate or a proxy knows it by.
        return await self._send(
            method,
            url,
            None,
            deadline,
            headers={"Host": base.netloc.decode()},
            extensions={"sni_hostname": base.host},
        )

    async def _everywhere(self, work: Callable[[str], Awaitable[T]]) -> list[T]:
        """At all of them, also where one fails; then that failure is raised."""
        addresses = await self._addresses()
        answers = await asyncio.gather(*map(work, addresses), return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        # What is wrong with a release tells more than a replica that does not answer.
        for error in sorted(failed, key=lambda error: isinstance(error, Unavailable | DeadlineExceeded)):
            raise error
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _addresses(self) -> Sequence[str]:
        base = self._client.base_url
        port = base.port or (443 if base.scheme == "https" else 80)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(base.host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Unavailable(f"the name of the {self._name} service cannot be resolved: {error.strerror}") from None
        # Of a name with both kinds each replica has one of each, and a service may listen at one alone.
        kind = socket.AF_INET if any(family == socket.AF_INET for family, *_ in found) else socket.AF_INET6
        return sorted({str(address[0]) for family, _, _, _, address in found if family == kind})
