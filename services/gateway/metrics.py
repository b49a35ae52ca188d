"""What Prometheus hears about the answers themselves, beside the HTTP counts. docs/metrics.md explains each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.gateway.cache.breaker import Breaker
from services.gateway.ports import Click
from services.gateway.recommend import Answered, ordered_by
from services.http.logs import LINE, hashed

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REDIS_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NATS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
STAGES = ("cache", "retrieval", "queue", "rank")

log = structlog.get_logger()


class Answers:
    """An observer of the use cases: counts, and one log line an answer with the user as a hash."""

    def __init__(self, registry: CollectorRegistry, log_salt: str) -> None:
        self._salt = log_salt

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tandem_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"tandem_{name}", text, labels, buckets=buckets, registry=registry)

        self.answers = counter("recommendations", "Answers, by what ordered them and by rung.", "ranker", "rung")
        self.degraded = counter("degradations", "Degraded answers, by reason.", "reason")
        self.stages = histogram("stage_seconds", "Time of one answer in each stage.", BUCKETS_S, "stage")
        self.budget = histogram("budget_used_ratio", "Share of its budget that an answer took.", SHARES)
        self.mass = histogram("label_mass", "Probability that the model put on the labels.", SHARES, "ranker")
        self.entropy = histogram("label_entropy_nats", "Entropy of the labels.", NATS, "ranker")
        self.cache = counter("cache", "What the cache did for a request, or a store for the cache.", "outcome")
        self.shown = counter("recommended_items", "Items in answers.", "ranker", "rung")
        self.clicks = counter(
            "recommended_items_taken", "Of these, taken: events with the id of the answer.", "ranker", "rung"
        )
        self.lost = counter("records_lost", "Answers that could not be written down: events cannot be joined to them.")
        self.seconds = histogram(
            "recommendation_seconds", "Time to an answer, by what it was made from.", BUCKETS_S, "rung"
        )
        self.redis = histogram("redis_seconds", "One round trip to Redis.", REDIS_BUCKETS_S)
        self.open = Gauge("tandem_breaker_open", "1 while a hop is left alone.", ("hop",), registry=registry)
        self._stages = {stage: self.stages.labels(stage) for stage in STAGES}
        self._outcomes: dict[str, Counter] = {}
        self._series: dict[tuple[str, str], tuple[Counter, Counter, Histogram]] = {}

    def __call__(self, answered: Answered) -> None:
        answer, ranked = answered.answer, answered.made.ranked
        ranker = ordered_by(answer, answered.made)
        series = self._series.get((ranker, answer.rung))
        if series is None:
            labels = (ranker, answer.rung)
            series = self.answers.labels(*labels), self.shown.labels(*labels), self.seconds.labels(answer.rung)
            self._series[labels] = series
        series[0].inc()
        series[1].inc(len(answer.items))
        series[2].observe(answer.timing_ms.total / 1000)
        for reason in answer.degradation:
            self.degraded.labels(reason).inc()
        timing = answer.timing_ms
        self.budget.observe(timing.total / answered.budget_ms if answered.budget_ms else 1.0)
        self._stages["cache"].observe(timing.cache / 1000)
        if answer.cache == "miss":
            for stage, ms in (("retrieval", timing.retrieval), ("queue", timing.queue), ("rank", timing.rank)):
                if ms:
                    self._stages[stage].observe(ms / 1000)
            if ranked:
                self.mass.labels(ranked.ranker).observe(ranked.label_mass)
                self.entropy.labels(ranked.ranker).observe(ranked.entropy)
        self._tell(answered, ranker)

    def _tell(self, answered: Answered, ranker: str) -> None:
        """On the line of the request; the entries of a batch, after the first, have lines of their own."""
        answer = answered.answer
        about = {
            "recommendation_id": answer.recommendation_id,
            "user": hashed(answered.user_id, self._salt),
            "items": len(answer.items),
            "ranker": ranker,
            "rung": answer.rung,
            "cache": answer.cache,
            "degradation": answer.degradation,
        }
        if answer.experiment is not None:
            about |= {"experiment": answer.experiment.name, "variant": answer.experiment.variant}
        line = LINE.get()
        if line is None or "recommendation_id" in line:
            log.info("recommended", **about)
        else:
            line.update(about)

    def cached(self, outcome: str) -> None:
        series = self._outcomes.get(outcome)
        if series is None:
            series = self._outcomes[outcome] = self.cache.labels(outcome)
        series.inc()

    def clicked(self, clicks: Sequence[Click]) -> None:
        for click in clicks:
            self.clicks.labels(click.ranker, click.rung).inc()

    def record_lost(self) -> None:
        self.lost.inc()

    def redis_took(self, seconds: float) -> None:
        self.redis.observe(seconds)

    def watch(self, hop: str, breaker: Callable[[], Breaker]) -> None:
        """Which one it is may change with the release."""
        self.open.labels(hop).set_function(lambda: not breaker().closed)
