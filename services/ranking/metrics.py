"""What Prometheus hears about the queue, beside the HTTP counts. docs/metrics.md explains each."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.ranking.batcher import Batcher
from shared.protocols import Reused, TellsReuse

SIZES = (1, 2, 4, 8, 16, 32, 64)
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Jobs:
    """A Count for the batcher, which also hears of each batch, and a gauge of the queue once it stands."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.ends = Counter(
            "tandem_rank_jobs",
            "Jobs by their end: ranked, failed, expired, abandoned, refused.",
            ("outcome",),
            registry=registry,
        )
        self.sizes = Histogram("tandem_rank_batch_size", "Jobs in one forward pass.", buckets=SIZES, registry=registry)
        self.seconds = Histogram(
            "tandem_rank_batch_seconds", "Time of one forward pass.", buckets=BUCKETS_S, registry=registry
        )
        self.waits = Histogram(
            "tandem_rank_wait_seconds", "Time of a job in the queue.", buckets=BUCKETS_S, registry=registry
        )

    def __call__(self, outcome: str) -> None:
        self.ends.labels(outcome).inc()

    def ran(self, waited_s: list[float], seconds: float) -> None:
        self.sizes.observe(len(waited_s))
        self.seconds.observe(seconds)
        for one in waited_s:
            self.waits.observe(one)

    def watch(self, batcher: Batcher) -> None:
        gauge = Gauge("tandem_rank_queue", "Jobs that wait for the model.", registry=self._registry)
        gauge.set_function(lambda: batcher.waiting)
        tokens = Gauge("tandem_rank_queue_tokens", "Tokens of the prompts that wait.", registry=self._registry)
        tokens.set_function(lambda: batcher.waiting_tokens)
        self._registry.register(_Reuse(batcher))


class _Reuse(Collector):
    """What the loaded rankers did not compute anew, read when it is asked for. A ranker that is unloaded takes its
    share with it, which Prometheus takes for a restart."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def describe(self) -> Iterator[Metric]:
        return iter(_families([]))

    def collect(self) -> Iterator[Metric]:
        return iter(_families([one.reused() for one in self._batcher.rankers if isinstance(one, TellsReuse)]))


def _families(told: list[Reused]) -> list[Metric]:
    tokens = CounterMetricFamily(
        "tandem_rank_prompt_tokens", "Tokens of prompts, computed or taken from a cache.", labels=("how",)
    )
    tokens.add_metric(("computed",), sum(one.tokens_computed for one in told))
    tokens.add_metric(("reused",), sum(one.tokens_reused for one in told))
    vectors = CounterMetricFamily("tandem_rank_vectors_reused", "User vectors taken from a cache.")
    vectors.add_metric((), sum(one.vectors for one in told))
    held = GaugeMetricFamily("tandem_rank_prefix_bytes", "Memory that prefixes' keys and values take.")
    held.add_metric((), sum(one.bytes for one in told))
    return [tokens, vectors, held]
