"""From one release to the next while users ask: whole answers of one release each, and a way back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.errors import Overloaded
from tests.services.asgi import client
from tests.services.gateway.rollout.world import START, Made, World, ask, release_of, serve, shown
from tests.services.gateway.test_app import gateway as gateway_without_releases
from tests.services.keys import added, sent

pytestmark = pytest.mark.anyio

CLICK = {"event_id": "e1", "user_id": "u1"}


async def until(http: httpx.AsyncClient, done: Any, seconds: float = 10.0) -> dict[str, Any]:
    """The state of the rollout once it is as awaited."""
    end = time.monotonic() + seconds
    while not done(found := await shown(http)):
        assert time.monotonic() < end, found
        await asyncio.sleep(0.05)
    return found


async def test_a_release_is_served_and_gone_back_from() -> None:
    async with client(World().gateway()) as http:
        assert release_of(await ask(http)) == START
        state = await serve(http, "r1")
        assert (state["live"]["release"], state["live"]["ready"]) == ("r1", True)
        assert state["live"]["models"] == ["lrurec@r1", "llamarec@r1"]
        assert release_of(await ask(http)) == "r1"
        state = (await http.post("/admin/models/rollback")).json()
        assert release_of(await ask(http)) == START
        assert "release" not in state["live"]
        assert state["previous"]["release"] == "r1"
        state = (await http.post("/admin/models/rollback")).json()
        assert release_of(await ask(http)) == "r1"
    assert [(one["what"], one.get("release")) for one in state["history"]] == [
        ("rollback", "r1"),
        ("rollback", None),
        ("live", "r1"),
    ]


async def test_the_other_routes_follow_the_live_release() -> None:
    async with client(World().gateway()) as http:
        await serve(http, "r1")
        names = [card["name"] for card in (await http.get("/models")).json()["models"]]
        ranked = (await http.post("/rank", json={"user_id": "u1", "candidates": ["i9", "i7"]})).json()
        reranked = (await http.post("/rerank", json={"query": "i3", "documents": ["i9", "i7"]})).json()
        batch = (await http.post("/recommend/batch", json={"requests": [{"user_id": "u1"}]})).json()
        assert (await http.get("/items/i3")).status_code == 200
    assert names == ["lrurec@r1", "llamarec@r1"]
    assert release_of(ranked) == release_of(batch["answers"][0]["answer"]) == "r1"
    assert reranked["model"] == "llamarec@r1"


REFUSED = {
    "unknown": (Made("r1"), 404, "unknown-release", "nowhere"),
    "corrupt": (Made("bad", corrupt=True), 409, "bad-artifact", "damaged"),
    "of two catalogues": (Made("bad", elsewhere=True), 409, "catalog-mismatch", "one registry"),
    "without a ranker": (Made("bad", rankers=("collm",)), 409, "bad-artifact", "lacks llamarec"),
    "that ranks with NaN": (Made("bad", nan=True), 503, "bad-answer", "NaN"),
    "whose ranker is down": (Made("bad", down=True), 503, "bad-answer", "refused"),
    "that answers as another": (Made("bad", says="r1"), 503, "bad-answer", "r1"),
}


@pytest.mark.parametrize("role", ["live", "canary"])
@pytest.mark.parametrize("fault", REFUSED)
async def test_what_cannot_be_served_changes_nothing(fault: str, role: str) -> None:
    made, status, kind, way_out = REFUSED[fault]
    world = World(made)
    async with client(world.gateway()) as http:
        await serve(http, "r2")
        before = await shown(http)
        name = "nowhere" if fault == "unknown" else made.name
        response = await http.post("/admin/models", json={"release": name, "as": role})
        assert (response.status_code, response.json()["type"]) == (status, f"urn:tandem:problem:{kind}")
        assert way_out in response.json()["detail"] or fault == "unknown"
        assert await shown(http) == before
        assert release_of(await ask(http)) == "r2"
        await asyncio.sleep(0.05)
        assert "tandem_releases_refused_total 1.0" in (await http.get("/metrics")).text
    assert "bad" not in {*world.retrieval.loaded, *world.ranking.loaded}, "what was refused stays in nobody's memory"


async def test_a_ranker_may_be_dropped_on_purpose() -> None:
    async with client(World(Made("other", rankers=("collm",))).gateway()) as http:
        await serve(http, "other", drop=["llamarec"])
        assert release_of(await ask(http)) == "other"
        assert (await http.post("/recommend", json={"user_id": "u1", "ranker": "llamarec"})).status_code == 422


async def test_a_shadow_may_lack_a_ranker() -> None:
    async with client(World(Made("other", rankers=("collm",))).gateway()) as http:
        assert (await serve(http, "other", "shadow"))["shadow"]["ready"]


async def test_the_operators_own_default_must_be_there() -> None:
    async with client(World().gateway(default_ranker="llara")) as http:
        response = await http.post("/admin/models", json={"release": "r1", "as": "live"})
    assert (response.status_code, "lacks llamarec, llara" in response.json()["detail"]) == (409, False)
    assert "lacks llara" in response.json()["detail"]


async def test_a_change_under_load_mixes_nothing_and_fails_nobody() -> None:
    """Requests that began before a change end after it: each is whole all the same."""
    world = World(*(Made(f"n{n}", seconds=0.02) for n in range(6)))
    found: list[str] = []

    async def user(http: httpx.AsyncClient, number: int) -> None:
        while "n5" not in found[-20:]:
            answer = await ask(http, f"user-{number}", history=[f"i{1 + (len(found) + number) % 60}", "i3"])
            assert not answer["degraded"], answer["degradation"]
            found.append(release_of(answer))
            await asyncio.sleep(0)  # a hit waits for nothing: without this nobody else has a turn

    async with client(world.gateway()) as http:

        async def change() -> None:
            for n in range(6):
                await asyncio.sleep(0.1)
                await serve(http, f"n{n}")

        await asyncio.gather(change(), *(user(http, number) for number in range(8)))
    assert {START, *(f"n{n}" for n in range(6))} <= set(found)


async def test_nothing_cached_of_one_release_is_answered_for_another() -> None:
    """Not even where both are made of the very same models, as after a corrected title."""
    same = Made("same", says=START)
    same.retrieved_by = Made(START).retrieved_by  # type: ignore[method-assign]
    same.ranked_by = Made(START).ranked_by  # type: ignore[method-assign]
    async with client(World(same).gateway()) as http:
        assert [(await ask(http))["cache"] for _ in "12"] == ["miss", "hit"]
        await serve(http, "same")
        assert [(await ask(http))["cache"] for _ in "12"] == ["miss", "hit"]
        await http.post("/admin/models/rollback")
        assert (await ask(http))["cache"] == "hit", "what was kept is still there"


async def test_a_last_ranking_is_only_that_of_the_same_release() -> None:
    world = World()
    async with client(world.gateway()) as http:
        await ask(http)
        await serve(http, "r1")
        world.restart()
        del world.shelf["r1"]
        answer = await ask(http, history=["i9"])
    assert answer["rung"] == "popularity"
    assert set(answer["degradation"]) == {"retrieval_unavailable"}


async def test_a_release_that_the_services_lost_is_loaded_again() -> None:
    world = World()
    async with client(world.gateway()) as http:
        await serve(http, "r1")
        world.restart()
        first = await ask(http, history=["i9"])
        assert first["degraded"]
        await until(http, lambda found: "r1" in world.retrieval.loaded and "r1" in world.ranking.loaded)
        answer = await ask(http, history=["i10"])
    assert (answer["degraded"], release_of(answer)) == (False, "r1"), "no breaker has opened"


async def test_a_file_outlives_the_gateway(tmp_path: Path) -> None:
    world, file = World(), tmp_path / "rollout.json"
    async with client(world.gateway(rollout_file=file)) as http:
        await serve(http, "r1")
        await serve(http, "r2", "canary", share=0.5)
    world.restart()
    async with client(world.gateway(rollout_file=file)) as http:
        state = await until(http, lambda found: found["live"]["ready"] and found["canary"]["ready"])
        assert state["live"]["release"] == "r1"
        assert {release_of(await ask(http, f"user-{n}")) for n in range(40)} == {"r1", "r2"}
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.post("/admin/models/rollback")).status_code == 200
        assert {release_of(await ask(http, f"user-{n}")) for n in range(40)} == {START, "r2"}


async def test_a_file_that_nobody_can_read_is_no_crash(tmp_path: Path) -> None:
    file = tmp_path / "rollout.json"
    file.write_text("{")
    async with client(World().gateway(rollout_file=file)) as http:
        assert release_of(await ask(http)) == START
        assert (await serve(http, "r1"))["live"]["release"] == "r1"
    assert '"live":"r1"' in file.read_text()


async def test_services_make_room_for_the_next_release() -> None:
    world = World()
    async with client(world.gateway()) as http:
        await serve(http, "r1", "shadow")
        await http.delete("/admin/models/shadow")
        full = world.ranking.load

        async def load(release: str, deadline: Any) -> Any:
            if "r1" in world.ranking.loaded and release != "r1":
                raise Overloaded("as many as TANDEM_MAX_RELEASES allows")
            return await full(release, deadline)

        world.ranking.load = load  # type: ignore[method-assign]
        assert (await serve(http, "r2"))["live"]["release"] == "r2"
    assert "r1" not in world.ranking.loaded


async def test_ends_of_what_is_not_there_are_the_callers_mistake() -> None:
    async with client(World().gateway()) as http:
        answers = [
            await http.delete("/admin/models/canary"),
            await http.delete("/admin/models/shadow"),
            await http.post("/admin/models/rollback"),
            await http.post("/admin/models", json={"release": "r1", "as": "live", "share": 0.5}),
            await http.post("/admin/models", json={"release": "../r1", "as": "live"}),
        ]
    assert [answer.status_code for answer in answers] == [422] * 5


async def test_a_gateway_without_a_registry_says_so() -> None:
    async with client(gateway_without_releases()) as http:
        for answer in (
            await http.get("/admin/models"),
            await http.post("/admin/models", json={"release": "r1", "as": "live"}),
            await http.post("/admin/models/rollback"),
            await http.delete("/admin/models/canary"),
        ):
            assert answer.status_code == 422
            assert "--registry" in answer.json()["detail"]


async def test_one_tenant_does_not_decide_for_the_others(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    ours, theirs = added(file), added(file, "other")
    asked = {"release": "r1", "as": "live"}
    async with client(World().gateway(api_keys_file=file)) as http:
        assert (await http.post("/admin/models", json=asked, headers=sent(theirs))).status_code == 403
        assert (await http.post("/admin/models", json=asked, headers=sent(ours))).status_code == 200
