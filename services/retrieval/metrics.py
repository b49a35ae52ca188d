"""What Prometheus hears about retrieval, beside the HTTP counts. docs/metrics.md explains each."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

STATES = ("known", "advanced", "whole", "unavailable")
BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Times:
    """Hears of each piece of work: what it was, how long it waited for the worker, and how long it took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._waits = Histogram(
            "tandem_retrieval_wait_seconds", "Until the worker was free.", buckets=BUCKETS_S, registry=registry
        )
        self._seconds = Histogram(
            "tandem_retrieval_seconds", "Time of the worker.", ("work",), buckets=BUCKETS_S, registry=registry
        )
        states = Counter("tandem_retrieval_states", "How histories were encoded.", ("outcome",), registry=registry)
        self._states = {outcome: states.labels(outcome) for outcome in STATES}

    def __call__(self, work: str, waited_s: float, seconds: float) -> None:
        self._waits.observe(waited_s)
        self._seconds.labels(work).observe(seconds)

    def encoded(self, outcome: str) -> None:
        self._states[outcome].inc()
