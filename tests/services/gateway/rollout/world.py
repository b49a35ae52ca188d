"""A gateway in process over services that load whatever release stands on the shelf, without weights or threads."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.gateway.app import compose
from services.gateway.ports import RankingPort, RetrievalPort
from services.gateway.rollout.hosts import Hosts
from services.gateway.settings import GatewaySettings
from shared.deadline import Deadline
from shared.errors import BadAnswer, BadArtifact, BadInput, ReleaseNotLoaded, Unavailable, UnknownRanker, UnknownRelease
from shared.wire.base import RankerName
from shared.wire.inner import ModelCard, ModelList, RankAnswer, RankRequest, ReleaseCard, RetrieveAnswer, ScoreRequest
from tests import fakes

CATALOG = fakes.catalog().fingerprint()
START = "r0"


@dataclass
class Made:
    """A release on the shelf. Whatever is wrong with it may begin and end while it is served.

    corrupt: cannot be loaded.  nan: the ranker's scores.  seconds: what its ranker takes.  elsewhere: the retrieval
    service has another catalogue of it than the ranking service.  says: a name that it answers under, beside its own.
    """

    name: str
    rankers: tuple[RankerName, ...] = ("llamarec",)
    corrupt: bool = False
    elsewhere: bool = False
    nan: bool = False
    down: bool = False
    label_mass: float = 0.9
    seconds: float = 0.0
    turned: bool = True
    """Whether its ranker reverses the candidates."""
    says: str = ""

    @property
    def model(self) -> str:
        return self.says or self.name

    def retrieved_by(self) -> ModelCard:
        catalog = "0" * 12 if self.elsewhere else CATALOG[:12]
        return ModelCard(name=f"lrurec@{self.name}", method="lrurec", catalog=catalog)

    def ranked_by(self) -> list[ModelCard]:
        return [ModelCard(name=f"{one}@{self.name}", method=one, catalog=CATALOG[:12]) for one in self.rankers]


class Retrieving(fakes.AnsweringRetrieval):
    def __init__(self, made: Made) -> None:
        super().__init__(self._named)
        self._made = made

    def _named(self, found: RetrieveAnswer) -> RetrieveAnswer:
        return found.model_copy(update={"model": f"lrurec@{self._made.model}"})

    async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
        return self._named(await super().score(request, deadline))

    async def models(self, deadline: Deadline) -> ModelList:
        return ModelList(models=[self._made.retrieved_by()])


class Ranking(fakes.AnsweringRanking):
    def __init__(self, made: Made) -> None:
        super().__init__()
        self._made = made

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        made = self._made
        if request.ranker not in made.rankers:
            raise UnknownRanker(f"ranker {request.ranker!r} is not loaded here")
        if made.down:
            raise Unavailable("connection refused")
        await asyncio.sleep(made.seconds)
        if made.nan:
            raise BadAnswer(f"{request.ranker}@{made.name} scored with NaN or infinity")
        ranked = await super().rank(request, deadline)
        items = ranked.items if made.turned else list(reversed(ranked.items))
        update: dict[str, Any] = {
            "model": f"{ranked.ranker}@{made.model}",
            "label_mass": made.label_mass,
            "items": items,
        }
        update["rank_ms"] = 1 + made.seconds * 1000
        return ranked.model_copy(update=update)

    async def models(self, deadline: Deadline) -> ModelList:
        return ModelList(models=self._made.ranked_by(), default=self._made.rankers[0])


class Bound:
    """Every call says ReleaseNotLoaded unless the release is loaded."""

    def __init__(self, host: Host, release: str) -> None:
        self._host, self._release = host, release

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any) -> Any:
            if self._release not in self._host.loaded:
                raise ReleaseNotLoaded(f"release {self._release!r} is not loaded here")
            return await getattr(self._host.loaded[self._release], name)(*args)

        return call


@dataclass
class Host:
    """A ReleasesPort; which service it is shows in what it makes of a release."""

    shelf: dict[str, Made]
    service: type[Retrieving] | type[Ranking]
    loaded: dict[str, Any] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loaded[START] = self.service(self.shelf[START])

    async def load(self, release: str, deadline: Deadline) -> ReleaseCard:
        self.loads.append(release)
        await asyncio.sleep(0.01)
        if release not in self.shelf:
            raise UnknownRelease(f"the registry holds no release {release!r}")
        if self.shelf[release].corrupt and self.service is Ranking:
            raise BadArtifact(f"release {release!r}: the file was changed or damaged")
        if release not in self.loaded:
            self.loaded[release] = self.service(self.shelf[release])
        return self._card(release)

    async def unload(self, release: str, deadline: Deadline) -> None:
        if release == START:
            raise BadInput(f"release {release!r} is the live one, which is never unloaded")
        self.loaded.pop(release, None)

    def port(self, release: str | None) -> Any:
        return Bound(self, release or START)

    def _card(self, release: str) -> ReleaseCard:
        made = self.shelf[release]
        cards = [made.retrieved_by()] if self.service is Retrieving else made.ranked_by()
        return ReleaseCard(release=release, catalog=cards[0].catalog, models=cards)


class World:
    def __init__(self, *made: Made) -> None:
        self.shelf = {one.name: one for one in (Made(START), Made("r1"), Made("r2"), *made)}
        self.retrieval, self.ranking = Host(self.shelf, Retrieving), Host(self.shelf, Ranking)

    def restart(self) -> None:
        """The services remember nothing but what they start with."""
        for host in (self.retrieval, self.ranking):
            for release in [one for one in host.loaded if one != START]:
                del host.loaded[release]

    def gateway(self, **settings: Any) -> FastAPI:
        retrieval: RetrievalPort = self.retrieval.port(None)
        ranking: RankingPort = self.ranking.port(None)
        return compose(
            GatewaySettings(**{"spare_candidates": 0, "default_timeout_ms": 5000} | settings),
            fakes.histories(),
            retrieval,
            ranking,
            AsyncExitStack(),
            CollectorRegistry(),
            hosts=Hosts(self.retrieval, self.ranking),  # type: ignore[arg-type]
        )


async def serve(http: httpx.AsyncClient, release: str, role: str = "live", **more: Any) -> dict[str, Any]:
    response = await http.post("/admin/models", json={"release": release, "as": role} | more, timeout=30)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def ask(http: httpx.AsyncClient, user: str = "u1", **more: Any) -> dict[str, Any]:
    response = await http.post("/recommend", json={"user_id": user, "history": ["i3", "i5"], "limit": 5} | more)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def shown(http: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/admin/models")).json()
    return found


def release_of(answer: dict[str, Any]) -> str:
    """Of all parts of an answer: the fakes have the release in the name of each model."""
    names = {name.split("@")[1] for part, name in answer["model"].items() if part != "catalog"}
    assert len(names) == 1, f"a mixed answer: {answer['model']}"
    return str(names.pop())
