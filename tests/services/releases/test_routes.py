"""Every route of the two services under a release's path: answered by that release, or by none."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry

from services.http.docs import document
from services.http.routes import Route
from services.http.signature import HEADER, sign
from services.ranking import app as ranking
from services.ranking.batcher import Batcher
from services.ranking.releases import RankingReleases
from services.ranking.service import RankingService
from services.ranking.settings import RankingSettings
from services.retrieval import app as retrieval
from services.retrieval.releases import RetrievalReleases
from services.retrieval.service import RetrievalService
from services.retrieval.settings import RetrievalSettings
from shared.deadline import HEADER as DEADLINE
from shared.errors import UnknownRelease
from tests import fakes
from tests.services.asgi import client

pytestmark = pytest.mark.anyio

SIZES = {"start": 60, "two": 30}
SECRET = "s" * 32


def catalog_of(release: str) -> Any:
    if release not in SIZES:
        raise UnknownRelease(f"the registry holds no release {release!r}")
    return fakes.catalog(SIZES[release])


def retrieval_app(secret: str | None = None) -> FastAPI:
    def build(release: str) -> RetrievalService:
        return fakes.retrieval_service(catalog_of(release))

    settings = RetrievalSettings(internal_secret=secret)  # type: ignore[arg-type]
    return retrieval.create(settings, RetrievalReleases(build("start"), "start", build))


def ranking_app(secret: str | None = None) -> FastAPI:
    batcher = Batcher(max_queue=64, max_batch=8)

    def build(release: str) -> RankingService:
        return fakes.ranking_service(catalog_of(release), batcher=batcher)

    settings = RankingSettings(internal_secret=secret)  # type: ignore[arg-type]
    return ranking.create(settings, RankingReleases(build("start"), "start", build), CollectorRegistry())


APPS = {"retrieval": retrieval_app, "ranking": ranking_app}
ASKED: dict[str, dict[str, Any]] = {
    "/retrieve": {"history": ["i3"], "k": 100},
    "/score": {"history": ["i3"], "item_ids": ["i5", "i40"]},
    "/resolve": {"texts": ["i40"]},
    "/rank": {"history": ["i1"], "candidates": [{"item_id": "i2", "score": 1}], "catalog": ""},
}


def type_of(answer: httpx.Response) -> str:
    return str(answer.json()["type"]).removeprefix("urn:tandem:problem:")


def of_releases(app: FastAPI) -> list[tuple[str, str, str | None]]:
    """Method, path for release two and item i1, and the scope that it needs."""
    found = []
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if str(context.path_format).startswith("/releases"):
            assert isinstance(route, Route)
            path = str(context.path_format).format(release="two", item_id="i1")
            found += [(method, path, route.needs) for method in context.methods or ()]
    return found


@pytest.fixture(params=APPS)
def app(request: pytest.FixtureRequest) -> FastAPI:
    made: FastAPI = APPS[request.param]()
    return made


async def test_a_release_comes_and_goes(app: FastAPI) -> None:
    async with client(app) as http:
        card = (await http.put("/releases/two")).json()
        again = (await http.put("/releases/two")).json()
        listed = (await http.get("/releases")).json()
        left = (await http.delete("/releases/two")).json()
        gone = await http.get("/releases/two/models")
    assert card == again == listed["releases"][1]
    assert card["catalog"] == fakes.catalog(SIZES["two"]).fingerprint()[:12]
    assert listed["live"] == left["live"] == "start"
    assert [one["release"] for one in left["releases"]] == ["start"]
    assert (gone.status_code, type_of(gone)) == (503, "release-not-loaded")


async def test_what_cannot_be_loaded_or_unloaded_says_why(app: FastAPI) -> None:
    async with client(app) as http:
        unknown = await http.put("/releases/nothing")
        nameless = [await http.put(f"/releases/{name}") for name in ("..%2F..%2Fetc", "UP", "a" * 65, "%00")]
        live = await http.delete("/releases/start")
        never = await http.delete("/releases/nothing")
        hurried = await http.put("/releases/two", headers={DEADLINE: "0"})
    assert (unknown.status_code, type_of(unknown)) == (404, "unknown-release")
    assert {answer.status_code for answer in nameless} <= {404, 405, 422}
    assert (live.status_code, type_of(live)) == (422, "bad-input")
    assert never.status_code == 200
    assert (hurried.status_code, type_of(hurried)) == (504, "deadline-exceeded")


async def test_each_release_retrieves_from_its_own_catalogue() -> None:
    async with client(retrieval_app()) as http:
        await http.put("/releases/two")
        for prefix, size in (("", 60), ("/releases/start", 60), ("/releases/two", 30), ("/v1/releases/two", 30)):
            found = (await http.post(prefix + "/retrieve", json=ASKED["/retrieve"])).json()
            assert len(found["items"]) == size - 1
            assert found["catalog"] == fakes.catalog(size).fingerprint()
            popular = (await http.get(prefix + "/popular?k=100")).json()
            assert len(popular["items"]) == size
            scored = (await http.post(prefix + "/score", json=ASKED["/score"])).json()
            assert len(scored["items"]) == (2 if size == 60 else 1)
            resolved = (await http.post(prefix + "/resolve", json=ASKED["/resolve"])).json()
            assert resolved["item_ids"] == ["i40" if size == 60 else None]
            assert (await http.get(prefix + "/items/i40")).status_code == (200 if size == 60 else 404)


async def test_each_release_ranks_what_is_of_its_own_catalogue() -> None:
    async with client(ranking_app()) as http:
        await http.put("/releases/two")
        for prefix, size in (("", 60), ("/releases/start", 60), ("/releases/two", 30)):
            own, other = (ASKED["/rank"] | {"catalog": fakes.catalog(n).fingerprint()} for n in (size, 90 - size))
            assert (await http.post(prefix + "/rank", json=own)).status_code == 200
            assert type_of(await http.post(prefix + "/rank", json=other)) == "catalog-mismatch"


@pytest.mark.parametrize("service", APPS)
async def test_nothing_is_answered_for_a_release_that_is_not_loaded(service: str) -> None:
    app = APPS[service]()
    async with client(app) as http:
        bound = [(method, path) for method, path, _ in of_releases(app) if path.startswith("/releases/two/")]
        assert len(bound) == {"retrieval": 6, "ranking": 2}[service]
        for method, path in bound:
            answer = await http.request(method, path, json=ASKED.get(path.removeprefix("/releases/two")))
            assert (answer.status_code, type_of(answer)) == (503, "release-not-loaded"), path


@pytest.mark.parametrize("service", APPS)
async def test_every_route_of_a_release_is_for_a_gateway_alone(service: str) -> None:
    app = APPS[service](SECRET)
    async with client(app) as http:
        for method, path, needs in of_releases(app):
            assert needs == "internal"
            assert (await http.request(method, path, json={})).status_code == 401, path
        signed = {HEADER: sign(SECRET.encode(), "PUT", b"/releases/two", "5000", b""), DEADLINE: "5000"}
        assert (await http.put("/releases/other", headers=signed)).status_code == 401
        assert (await http.put("/releases/two", headers=signed)).status_code == 200


@pytest.mark.parametrize("service", APPS)
def test_the_openapi_document_names_the_release_of_each_path(service: str) -> None:
    described = document(APPS[service]())
    for path, methods in described["paths"].items():
        if "{release}" in path:
            for operation in methods.values():
                [parameter] = [one for one in operation["parameters"] if one["name"] == "release"]
                assert (parameter["in"], parameter["required"]) == ("path", True)


async def test_what_a_loaded_release_does_is_counted() -> None:
    async with client(retrieval_app()) as http:
        await http.put("/releases/two")
        await http.get("/releases/two/popular")
        shown = (await http.get("/metrics")).text
    assert 'tandem_retrieval_seconds_count{work="popular"} 1.0' in shown
    assert 'route="/releases/{release}/popular"' in shown
