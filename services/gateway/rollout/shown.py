"""The state of the rollout as operators see it at one gateway."""

from __future__ import annotations

from services.gateway.rollout.health import Numbers, quantile
from services.gateway.rollout.rollout import Rollout
from services.gateway.rollout.shadow import Shadow
from services.gateway.rollout.watch import Watch
from shared.wire.rollout import CanaryRelease, ReleaseHealth, RolloutAnswer, ServedRelease, ShadowRelease


def shown(rollout: Rollout, watch: Watch, shadow: Shadow) -> RolloutAnswer:
    decided, live = rollout.decided, rollout.serving.live
    problems = [f"release {release or 'at the start'}: {problem}" for release, problem in rollout.problems.items()]
    if live.release != decided.live:
        problems.append(f"{decided.live or 'what the services started with'} is to be live, and is not ready here yet")
    canary = decided.canary
    return RolloutAnswer(
        live=_served(rollout, live.release),
        previous=None if decided.previous is None else _served(rollout, decided.previous),
        canary=CanaryRelease(**dict(_served(rollout, canary.release)), share=canary.share, experiment=canary.experiment)
        if canary
        else None,
        shadow=None if decided.shadow is None else _shadowing(rollout, shadow, decided.shadow),
        watched=watch.is_on,
        saved=not rollout.unsaved,
        problems=problems,
        history=list(reversed(decided.history)),
    )


def _served(rollout: Rollout, release: str) -> ServedRelease:
    stack = rollout.stack(release)
    return ServedRelease(
        release=release or None,
        ready=stack is not None and stack.ready,
        models=stack.models() if stack else [],
        health=_health(stack.health.numbers() if stack else Numbers()),
    )


def _shadowing(rollout: Rollout, shadow: Shadow, release: str) -> ShadowRelease:
    seen = shadow.lately(release)
    taus = [one.tau for one in seen if one.tau is not None]
    return ShadowRelease(
        **dict(_served(rollout, release)),
        compared=len(seen),
        tau=round(sum(taus) / len(taus), 4) if taus else None,
        top1=round(sum(one.top1 for one in seen) / len(seen), 4) if seen else None,
    )


def _health(numbers: Numbers) -> ReleaseHealth:
    count = numbers.answers
    return ReleaseHealth(
        answers=count,
        faults=round(numbers.faults / count, 4) if count else 0.0,
        low_confidence=round(numbers.unsure / count, 4) if count else 0.0,
        p95_ms=round(quantile(numbers.ms, 0.95), 3) if numbers.ms else None,
    )
