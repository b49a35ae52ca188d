"""What the gateway costs: POST /recommend on cache hits beside a bare FastAPI route that returns the same bytes, in one
run on one machine. The variants take turns within each round, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from services.bench.load import Measured, Plan
from services.bench.machine import load_average, machine
from services.bench.processes import Server, measure, redis, server

SUBJECTS = "services.bench.subjects"
PATH = "/recommend"
USERS = 200
HISTORY = 20
CACHED_FOR_S = "86400"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    rounds: int
    seconds: float
    connections: int
    load: float
    """Of the gateway's own throughput, at which the latencies are compared."""
    users: int = USERS


@dataclass(frozen=True, slots=True)
class Variant:
    """`asked`: stored (user ids, whose history the gateway looks up) or sent (a history in the request).  against: the
    bare variant that is asked the same, for all but the bare ones."""

    subject: str
    asked: str

    @property
    def name(self) -> str:
        return f"{self.subject}, {self.asked}"

    @property
    def bare(self) -> Variant:
        return Variant("bare", self.asked)


VARIANTS = tuple(Variant(subject, asked) for asked in ("stored", "sent") for subject in ("bare", "memory", "redis"))
"""memory: state and cache of the gateway in its own process.  redis: in a real Redis."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One variant in one round. cpu_us: of the server, for one request of the closed loop.  rate: of the open one, a
    second."""

    variant: str
    round: int
    closed: Measured
    cpu_us: float
    rate: float
    open: Measured
    load_average: float


def run(settings: Settings, said: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The report: every trial, the medians of each variant, and each gateway beside the bare route."""
    with servers(settings) as running:
        for variant in VARIANTS:
            _closed(settings, variant, running, seconds=min(1.0, settings.seconds))
        trials = []
        for number in range(settings.rounds):
            for trial in _round(settings, number, running):
                trials.append(trial)
                said(_line(trial))
    return report_of(settings, trials)


def report_of(settings: Settings, trials: list[Trial]) -> dict[str, Any]:
    return {
        "settings": asdict(settings),
        "machine": machine(),
        "variants": {variant.name: _medians(trials, variant) for variant in VARIANTS},
        "beside_bare": {variant.name: _beside(trials, variant) for variant in VARIANTS if variant != variant.bare},
        "trials": [asdict(trial) for trial in trials],
    }


def bodies(settings: Settings, asked: str) -> list[str]:
    if asked == "stored":
        return [json.dumps({"user_id": f"user-{n}", "limit": 10}) for n in range(settings.users)]
    return [json.dumps({"history": history(n), "limit": 10}) for n in range(settings.users)]


def history(n: int) -> list[str]:
    return [str(1 + (n * 37 + place * 11) % 9_000) for place in range(HISTORY)]


@contextmanager
def servers(settings: Settings) -> Iterator[Mapping[str, Server]]:
    """All of them run all the time; who is not asked only waits."""
    kept = {"TANDEM_CACHE_FRESH_S": CACHED_FOR_S}
    with ExitStack() as stack:
        url = stack.enter_context(redis())
        memory = stack.enter_context(server(SUBJECTS, ["gateway"], kept))
        shared = stack.enter_context(server(SUBJECTS, ["gateway"], kept | {"TANDEM_REDIS_URL": url}))
        for one in (memory, shared):
            _fill(settings, one)
        answer = memory.post(PATH, bodies(settings, "stored")[0]).decode()
        bare = stack.enter_context(server(SUBJECTS, ["bare"], {"BENCH_ANSWER": answer}))
        yield {"bare": bare, "memory": memory, "redis": shared}


def _fill(settings: Settings, gateway: Server) -> None:
    """Histories of the stored users, and an answer to each question in the cache."""
    for n in range(settings.users):
        events = [
            {"event_id": f"{n}-{place}", "user_id": f"user-{n}", "item_id": item, "timestamp": place}
            for place, item in enumerate(history(n))
        ]
        gateway.post("/events", json.dumps({"events": events}))
    for asked in ("stored", "sent"):
        for body in bodies(settings, asked):
            gateway.post(PATH, body)


def _round(settings: Settings, number: int, running: Mapping[str, Server]) -> Iterator[Trial]:
    """First the throughput of all, then the latency of all at the share `load` of what the slowest gateway just did: on
    a machine that others use as well, half of an earlier round's throughput may be too much for this one."""
    order = VARIANTS if number % 2 == 0 else VARIANTS[::-1]
    closed = {variant: _closed(settings, variant, running) for variant in order}
    for variant in order:
        gateways = [found for one, (found, _) in closed.items() if one.asked == variant.asked and one != one.bare]
        rate = settings.load * min(found.per_second for found in gateways)
        opened = measure(_plan(settings, variant, running, settings.seconds, rate, seed=number))
        found, cpu_us = closed[variant]
        yield Trial(variant.name, number, found, cpu_us, round(rate, 1), opened, load_average())


def _closed(
    settings: Settings, variant: Variant, servers: Mapping[str, Server], seconds: float | None = None
) -> tuple[Measured, float]:
    one = servers[variant.subject]
    before = one.cpu_seconds()
    found = measure(_plan(settings, variant, servers, seconds or settings.seconds))
    return found, round((one.cpu_seconds() - before) / max(found.requests, 1) * 1e6, 1)


def _plan(
    settings: Settings,
    variant: Variant,
    servers: Mapping[str, Server],
    seconds: float,
    rate: float = 0.0,
    seed: int = 0,
) -> Plan:
    return Plan(
        port=servers[variant.subject].port,
        path=PATH,
        bodies=bodies(settings, variant.asked),
        connections=settings.connections,
        seconds=seconds,
        rate=rate,
        seed=seed,
    )


def _medians(trials: list[Trial], variant: Variant) -> dict[str, float]:
    mine = [trial for trial in trials if trial.variant == variant.name]
    return {
        "per_second": _median([trial.closed.per_second for trial in mine]),
        "cpu_us": _median([trial.cpu_us for trial in mine]),
        "p50_ms": _median([trial.open.p50_ms for trial in mine]),
        "p99_ms": _median([trial.open.p99_ms for trial in mine]),
        "failed": sum(trial.closed.failed + trial.open.failed for trial in mine),
    }


def _beside(trials: list[Trial], variant: Variant) -> dict[str, float]:
    """Medians over the rounds of what each round shows against the bare route of the same round."""
    pairs = [
        (mine, bare)
        for mine in trials
        for bare in trials
        if mine.round == bare.round and (mine.variant, bare.variant) == (variant.name, variant.bare.name)
    ]
    return {
        "throughput_ratio": _median([mine.closed.per_second / bare.closed.per_second for mine, bare in pairs]),
        "cpu_ratio": _median([bare.cpu_us / mine.cpu_us for mine, bare in pairs]),
        "added_p50_ms": _median([mine.open.p50_ms - bare.open.p50_ms for mine, bare in pairs]),
        "added_p99_ms": _median([mine.open.p99_ms - bare.open.p99_ms for mine, bare in pairs]),
    }


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 3)


def _line(trial: Trial) -> str:
    return (
        f"round {trial.round + 1}  {trial.variant:<15} {trial.closed.per_second:7.0f}/s {trial.cpu_us:6.0f} us CPU   "
        f"p50 {trial.open.p50_ms:6.2f} ms  p99 {trial.open.p99_ms:6.2f} ms   load {trial.load_average:.2f}"
    )
