"""A release that answers some users, and one that answers none: said in answers, counted, and ended by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.rollout import watch
from services.gateway.rollout.shadow import kendall_tau
from tests.services.asgi import client
from tests.services.gateway.rollout.test_rollout import until
from tests.services.gateway.rollout.world import START, Made, World, ask, release_of, serve, shown

pytestmark = pytest.mark.anyio


async def crowd(http: httpx.AsyncClient, users: int, turn: int = 0) -> list[dict[str, Any]]:
    """One question of each user, 8 at a time; no two have one history, and none the same in two turns."""
    gate = asyncio.Semaphore(8)

    async def one(number: int) -> dict[str, Any]:
        async with gate:
            history = [f"i{1 + number % 60}", f"i{1 + number // 60}", f"i{1 + turn}"]
            return await ask(http, f"user-{number}", history=history)

    return list(await asyncio.gather(*map(one, range(users))))


async def metric(http: httpx.AsyncClient, name: str) -> float:
    lines = (await http.get("/metrics")).text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " ")), 0.0)


async def test_without_a_canary_there_is_no_experiment() -> None:
    async with client(World().gateway()) as http:
        await serve(http, "r1")
        assert "experiment" not in await ask(http)


async def test_a_canary_answers_its_share_and_says_so() -> None:
    async with client(World().gateway()) as http:
        state = await serve(http, "r1", "canary", experiment="newer")
        assert (state["canary"]["share"], state["canary"]["experiment"]) == (0.1, "newer")
        first, again = await crowd(http, 200), await crowd(http, 200)
        variants = {"canary": "r1", "live": START}
        for answer in first:
            assert answer["experiment"]["name"] == "newer"
            assert release_of(answer) == variants[answer["experiment"]["variant"]]
        assert 8 <= sum(release_of(answer) == "r1" for answer in first) <= 35
        assert [one["experiment"] for one in again] == [one["experiment"] for one in first], "stable per user"
        await serve(http, "r1", "canary", share=0.5, experiment="newer")
        more = await crowd(http, 200)
        assert "canary" in (state := await shown(http)), state["history"][0]
        assert all(release_of(now) == "r1" for now, was in zip(more, first, strict=True) if release_of(was) == "r1")
        ended = (await http.delete("/admin/models/canary")).json()
        assert {release_of(answer) for answer in await crowd(http, 40)} == {START}
    assert "canary" not in ended
    assert ended["history"][0]["what"] == "canary_ended"


async def test_what_users_take_is_counted_by_variant() -> None:
    async with client(World().gateway()) as http:
        await serve(http, "r1", "canary", share=0.5, experiment="newer")
        answers = await crowd(http, 20)
        await asyncio.sleep(0.05)  # answers are written down after they were given
        for number, answer in enumerate(answers):
            taken = {"event_id": f"e{number}", "user_id": f"user-{number}", "item_id": answer["items"][0]["item_id"]}
            await http.post("/events", json=taken | {"recommendation_id": answer["recommendation_id"]})
        for variant in ("live", "canary"):
            labels = f'{{experiment="newer",variant="{variant}"}}'
            count = sum(answer["experiment"]["variant"] == variant for answer in answers)
            assert count > 0
            assert await metric(http, f"tandem_experiment_recommendations_total{labels}") == count
            assert await metric(http, f"tandem_experiment_items_total{labels}") == count * 5
            assert await metric(http, f"tandem_experiment_items_taken_total{labels}") == count
        assert await metric(http, 'tandem_release_recommendations_total{degraded="false",release="r1"}') > 0
        assert await metric(http, 'tandem_rollout_info{release="r1",role="canary"}') == 1
        assert await metric(http, "tandem_canary_share") == 0.5


def slower(made: Made) -> None:
    """Much: in this process everything else has a share in the time as well."""
    made.seconds = 0.5


def nan(made: Made) -> None:
    made.nan = True


def unsure(made: Made) -> None:
    made.label_mass = 0.0


FAULTS = [(nan, "faults"), (slower, "latency"), (unsure, "low_confidence")]


@pytest.mark.parametrize(("fault", "cause"), FAULTS, ids=lambda one: getattr(one, "__name__", one))
async def test_a_canary_that_is_worse_ends_by_itself(fault: Any, cause: str) -> None:
    world = World()
    world.shelf[START].seconds = world.shelf["r1"].seconds = 0.02
    async with client(world.gateway()) as http:
        await serve(http, "r1", "canary", share=0.5)
        await crowd(http, 60)
        await asyncio.sleep(2 * watch.POLL_S)
        assert "canary" in await shown(http), "nothing is wrong with it yet"
        fault(world.shelf["r1"])
        answers, turn = list[dict[str, Any]](), 0
        while "canary" in (state := await shown(http)):
            turn += 1
            assert turn < 20, state
            answers += await crowd(http, 60, turn)
        assert {release_of(answer) for answer in await crowd(http, 20, 50)} == {START}
        assert await metric(http, 'tandem_rollout_changes_total{by="watch",what="canary_ended"}') == 1
        assert await metric(http, 'tandem_breaker_open{hop="ranking"}') == 0, "what is wrong with it is its own"
    newest = state["history"][0]
    assert (newest["what"], newest["release"], newest["by"]) == ("canary_ended", "r1", "watch")
    assert newest["reason"].startswith(cause)
    assert not any(one["degraded"] for one in answers if release_of(one) == START), "the live release never noticed"


async def test_a_new_live_release_that_is_worse_goes_back_by_itself() -> None:
    world = World()
    async with client(world.gateway()) as http:
        await crowd(http, 40)
        assert (await serve(http, "r1"))["watched"]
        await crowd(http, 40)
        nan(world.shelf["r1"])
        await crowd(http, 60, 1)
        state = await until(http, lambda found: "release" not in found["live"])
        assert release_of(await ask(http, history=["i44"])) == START
    assert (state["history"][0]["what"], state["history"][0]["by"]) == ("rollback", "watch")
    assert not state["watched"], "what was live before is not watched"


async def test_without_a_better_release_behind_it_the_live_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "AGAIN_S", 0.1)
    world = World()
    async with client(world.gateway()) as http:
        await serve(http, "r1")
        nan(world.shelf["r1"])
        nan(world.shelf[START])
        for turn in range(40):
            await ask(http, history=["i3", f"i{6 + turn}"])
        await asyncio.sleep(3 * watch.POLL_S)
        assert (await shown(http))["live"]["release"] == "r1"


async def test_a_release_that_has_been_live_for_long_is_watched_no_more() -> None:
    async with client(World().gateway(rollout_watch_s=0)) as http:
        assert not (await serve(http, "r1"))["watched"]


async def test_a_shadow_is_compared_and_answers_nobody() -> None:
    world = World(Made("turned", turned=False))
    async with client(world.gateway()) as http:
        await serve(http, "turned", "shadow")
        for number in range(5):
            assert release_of(await ask(http, f"user-{number}", history=[f"i{1 + number}"], limit=20)) == START
            await until(http, lambda found, so_far=number + 1: found["shadow"]["compared"] == so_far)
        state = await shown(http)
        assert (state["shadow"]["tau"], state["shadow"]["top1"]) == (-1.0, 0.0)
        assert await metric(http, 'tandem_shadow_top1_total{agreed="false"}') == 5
        await ask(http, "user-1", history=["i1"], limit=20)
        assert await metric(http, 'tandem_shadow_answers_total{outcome="scored"}') == 5, "not for what was cached"
        assert "shadow" not in (await http.delete("/admin/models/shadow")).json()


async def test_a_busy_shadow_is_left_out_and_slows_nobody() -> None:
    world = World()
    async with client(world.gateway()) as http:
        await serve(http, "r1", "shadow")
        world.shelf["r1"].seconds = 3600
        answers = await crowd(http, 60)
        assert await metric(http, 'tandem_shadow_answers_total{outcome="dropped"}') == 60 - 4
    assert not any(answer["degraded"] for answer in answers)


async def test_a_shadow_that_fails_is_nobodys_fault() -> None:
    world = World()
    async with client(world.gateway()) as http:
        await serve(http, "r1", "shadow")
        nan(world.shelf["r1"])
        assert not (await ask(http))["degraded"]
        state = await until(http, lambda found: found["shadow"]["health"]["answers"] == 1)
        assert state["shadow"]["health"]["faults"] == 1.0
        assert state["live"]["health"]["faults"] == 0.0


lists = st.permutations([f"i{n}" for n in range(12)])


@settings(deadline=None)
@given(lists, lists)
def test_tau_is_scipys(one: list[str], other: list[str]) -> None:
    stats = pytest.importorskip("scipy.stats")
    other = other[:8]
    common = [item for item in one if item in other]
    expected = stats.kendalltau(range(len(common)), [other.index(item) for item in common]).statistic
    assert kendall_tau(one, other) == pytest.approx(expected)


def test_tau_of_what_cannot_be_compared_is_none() -> None:
    assert kendall_tau(["i1", "i2"], ["i3", "i1"]) is None
    assert kendall_tau([], []) is None
