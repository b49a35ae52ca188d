"""What Prometheus hears about releases, where there can be several. docs/metrics.md explains each."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.gateway.ports import Click
from services.gateway.rollout.shadow import Agreement, Outcome
from services.gateway.rollout.state import STARTED, Decided
from services.gateway.stack import Stack
from shared.wire.recommend import RecommendAnswer
from shared.wire.rollout import RolloutChange

TAUS = (-0.5, 0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
NAMELESS = "started"
"""Stands for what the services started with."""


class Rollouts:
    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tandem_{name}", text, labels, registry=registry)

        self.answers = counter("release_recommendations", "Answers, by release.", "release", "degraded")
        self._series: dict[tuple[str, bool], Counter] = {}
        self.of_variant = counter("experiment_recommendations", "Answers, by variant.", "experiment", "variant")
        self.shown = counter("experiment_items", "Items in answers, by variant.", "experiment", "variant")
        self.taken = counter("experiment_items_taken", "Of these, taken.", "experiment", "variant")
        self.changes = counter("rollout_changes", "Changes of what is served.", "what", "by")
        self.refused = counter("releases_refused", "Releases that could not be served; nothing changed.")
        self.shadowed = counter("shadow_answers", "What became of comparisons with the shadow.", "outcome")
        self.tau = Histogram("tandem_shadow_tau", "Kendall's tau, live to shadow.", buckets=TAUS, registry=registry)
        self.top1 = counter("shadow_top1", "Whether live and shadow begin with the same item.", "agreed")
        self.role = Gauge("tandem_rollout_info", "1 per role and release.", ("role", "release"), registry=registry)
        self._served = STARTED
        self.share = Gauge("tandem_canary_share", "Share of the users that the canary answers.", registry=registry)
        self.unsaved = Gauge(
            "tandem_rollout_unsaved", "1 while the store of the rollout does not answer.", registry=registry
        )

    def serving(self, release: str) -> None:
        """What is answered with as live here, which may not be what is decided yet."""
        self.role.remove("serving", self._served or NAMELESS)
        self._served = release
        self.role.labels("serving", release or NAMELESS).set(1)

    def answered(self, stack: Stack, answer: RecommendAnswer) -> None:
        series = self._series.get((stack.release, answer.degraded))
        if series is None:
            series = self.answers.labels(stack.release or NAMELESS, "true" if answer.degraded else "false")
            self._series[stack.release, answer.degraded] = series
        series.inc()
        if (experiment := answer.experiment) is not None:
            self.of_variant.labels(experiment.name, experiment.variant).inc()
            self.shown.labels(experiment.name, experiment.variant).inc(len(answer.items))

    def clicked(self, clicks: Sequence[Click]) -> None:
        for click in clicks:
            if click.experiment is not None:
                self.taken.labels(click.experiment.name, click.experiment.variant).inc()

    def compared(self, outcome: Outcome, agreement: Agreement | None) -> None:
        self.shadowed.labels(outcome).inc()
        if agreement is None:
            return
        self.top1.labels("true" if agreement.top1 else "false").inc()
        if agreement.tau is not None:
            self.tau.observe(agreement.tau)

    def changed(self, change: RolloutChange) -> None:
        self.changes.labels(change.what, change.by).inc()

    def decided(self, now: Decided) -> None:
        self.role.clear()
        canary = now.canary.release if now.canary else None
        for role, release in (
            ("live", now.live),
            ("previous", now.previous),
            ("canary", canary),
            ("shadow", now.shadow),
        ):
            if release is not None:
                self.role.labels(role, release if release != STARTED else NAMELESS).set(1)
        self.serving(self._served)
        self.share.set(now.canary.share if now.canary else 0)
