"""What Prometheus hears about the queue, beside the HTTP counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.ranking.batcher import Batcher


class Jobs:
    """A Count for the batcher, and a gauge of its length once it stands."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.ends = Counter(
            "tandem_rank_jobs",
            "Jobs by their end: ranked, failed, expired, abandoned, refused.",
            ("outcome",),
            registry=registry,
        )

    def __call__(self, outcome: str) -> None:
        self.ends.labels(outcome).inc()

    def watch(self, batcher: Batcher) -> None:
        gauge = Gauge("tandem_rank_queue", "Jobs that wait for the model.", registry=self._registry)
        gauge.set_function(lambda: batcher.waiting)
