"""Two gateways over one store, which decide before they have read what the other decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.gateway.rollout import rollout as module
from services.gateway.rollout import state
from services.gateway.rollout.health import Health
from services.gateway.rollout.metrics import Rollouts
from services.gateway.rollout.rollout import Rollout
from services.gateway.rollout.state import STARTED, Canary
from services.gateway.rollout.stores import MemoryStore
from services.gateway.rollout.verdict import Limits
from services.gateway.rollout.watch import Watch
from services.gateway.serving import Plan
from shared.errors import BadArtifact, BadInput

pytestmark = pytest.mark.anyio
ENOUGH = 30
"""Failures that no release survives."""


@dataclass
class OneRelease:
    """A Stack without services."""

    release: str
    ready: bool = True
    health: Health = field(default_factory=Health)

    async def refresh(self, keep: bool) -> None: ...


@dataclass
class Served:
    plan: Plan

    @property
    def live(self) -> Any:
        return self.plan.live


@dataclass
class Admits:
    """Everything but what is `broken`, after a moment."""

    broken: set[str] = field(default_factory=set)

    async def stack(self, release: str, *more: Any) -> OneRelease:
        await asyncio.sleep(0.01)
        if release in self.broken:
            raise BadArtifact("damaged")
        return OneRelease(release)

    async def load(self, release: str) -> None: ...
    async def unload(self, release: str) -> None: ...

    async def prove(self, stack: OneRelease) -> None:
        await asyncio.sleep(0.01)


@dataclass
class Gateway:
    rollout: Rollout
    watch: Watch
    registry: CollectorRegistry
    admits: Admits

    def serves(self) -> str | None:
        """As its own metrics say."""
        for metric in self.registry.collect():
            for sample in metric.samples:
                if sample.name == "tandem_rollout_info" and sample.labels["role"] == "serving":
                    return sample.labels["release"]
        return None


def gateway(store: MemoryStore) -> Gateway:
    registry, admits = CollectorRegistry(), Admits()
    rollout = Rollout(
        serving=Served(Plan(OneRelease(STARTED))),  # type: ignore[arg-type]
        admission=admits,  # type: ignore[arg-type]
        build=OneRelease,  # type: ignore[arg-type]
        store=store,
        metrics=Rollouts(registry),
    )
    return Gateway(rollout, Watch(rollout, Limits(), watch_s=600), registry, admits)


@pytest.fixture
async def two() -> AsyncIterator[tuple[Gateway, Gateway]]:
    store = MemoryStore()
    both = gateway(store), gateway(store)
    yield both
    for one in both:
        await one.rollout.aclose()


async def decide(one: Gateway, step: state.Step, release: str) -> None:
    await one.rollout._decide(step, OneRelease(release))  # type: ignore[arg-type]


async def hear(*gateways: Gateway) -> None:
    """What stands in the store, and what it takes to serve that."""
    for one in gateways:
        await one.rollout.look()
    await asyncio.sleep(0.05)


def now() -> datetime:
    return datetime.now(UTC)


async def test_who_both_take_a_bad_release_back_take_it_back_once(two: tuple[Gateway, Gateway]) -> None:
    """The second way back would be the way there again, and nobody watches what was gone back to."""
    a, b = two
    await a.rollout.look()
    await decide(a, state.live("bad", now()), "bad")
    await hear(b)
    assert [one.rollout.serving.live.release for one in two] == ["bad", "bad"]
    for one in two:
        for _ in range(ENOUGH):
            one.rollout.serving.live.health.failed()
    await asyncio.gather(*(one.watch.judge() for one in two))
    await hear(a, b)
    assert [one.rollout.decided.live for one in two] == [STARTED, STARTED]
    assert [change.what for change in a.rollout.decided.history] == ["live", "rollback"]


async def test_an_operator_who_comes_second_is_told_so(two: tuple[Gateway, Gateway]) -> None:
    a, b = two
    await a.rollout.look()
    await decide(a, state.live("bad", now()), "bad")
    await hear(b)
    await a.rollout.back("watch", "it fails")
    with pytest.raises(BadInput, match="'bad' is no longer live"):
        await b.rollout.back()
    assert b.rollout.decided.live == STARTED


async def test_a_canary_that_ends_and_comes_again_at_once_is_served(
    two: tuple[Gateway, Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.2)
    a, b = two
    await a.rollout.look()
    begins = state.canary(Canary(release="x", share=0.1, experiment="x"), now())
    await decide(a, begins, "x")
    await hear(b)
    assert b.rollout.serving.plan.trial is not None
    await a.rollout.end_canary()
    await hear(b)
    assert b.rollout.serving.plan.trial is None
    await decide(a, begins, "x")
    await hear(b)
    await asyncio.sleep(0.5)
    assert b.rollout.serving.plan.trial is not None


async def test_who_cannot_bring_the_live_release_shows_what_it_serves_instead(two: tuple[Gateway, Gateway]) -> None:
    a, b = two
    b.admits.broken.add("r1")
    await a.rollout.look()
    await decide(a, state.live("r1", now()), "r1")
    await hear(b)
    assert b.rollout.decided.live == "r1"
    assert (a.serves(), b.serves()) == ("r1", "started")
    await a.rollout.back()
    await hear(b)
    assert (a.serves(), b.serves()) == ("started", "started")
