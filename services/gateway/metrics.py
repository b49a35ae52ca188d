"""What Prometheus hears about the answers themselves, beside the HTTP counts."""

from __future__ import annotations

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from services.http.logs import hashed
from shared.wire import RecommendAnswer, RecommendRequest

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

log = structlog.get_logger()


class Answers:
    """An observer of the use case: counts and one log line, with the user as a hash."""

    def __init__(self, registry: CollectorRegistry, log_salt: str) -> None:
        self._salt = log_salt
        self.answers = Counter(
            "tandem_recommendations", "Answers, by what ordered their first item.", ("source",), registry=registry
        )
        self.degraded = Counter("tandem_degradations", "Degraded answers, by reason.", ("reason",), registry=registry)
        self.stages = Histogram(
            "tandem_stage_seconds",
            "Time of one answer in each stage.",
            ("stage",),
            buckets=BUCKETS_S,
            registry=registry,
        )

    def __call__(self, request: RecommendRequest, answer: RecommendAnswer) -> None:
        source = answer.items[0].source if answer.items else "none"
        self.answers.labels(source).inc()
        for reason in answer.degradation:
            self.degraded.labels(reason).inc()
        timing = answer.timing_ms
        for stage in ("retrieval", "queue", "rank"):
            if ms := getattr(timing, stage):
                self.stages.labels(stage).observe(ms / 1000)
        log.info(
            "recommended",
            recommendation_id=answer.recommendation_id,
            user=hashed(request.user_id, self._salt),
            items=len(answer.items),
            source=source,
            degradation=answer.degradation,
            timing_ms=timing.model_dump(),
        )
