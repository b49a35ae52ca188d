"""The rollout put together, for a gateway whose services can load several releases."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from services.gateway.rollout.admission import Admission
from services.gateway.rollout.hosts import Hosts
from services.gateway.rollout.lost import noticing
from services.gateway.rollout.metrics import Rollouts
from services.gateway.rollout.rollout import Rollout
from services.gateway.rollout.routes import rollout_routes
from services.gateway.rollout.settings import open_rollout
from services.gateway.rollout.shadow import Shadow
from services.gateway.rollout.watch import Watch
from services.gateway.serving import Serving
from services.gateway.settings import GatewaySettings
from services.gateway.stack import Shared, Stack
from services.http.routes import Router

if TYPE_CHECKING:
    from services.gateway.state.connections import Connections


class Releases:
    """`first` is what the services started with; `work` runs as long as the gateway."""

    def __init__(
        self,
        settings: GatewaySettings,
        shared: Shared,
        first: Stack,
        hosts: Hosts,
        connections: Connections | None,
        registry: CollectorRegistry,
    ) -> None:
        def build(release: str) -> Stack:
            def lost() -> None:
                self.rollout.lost(release)

            to_retrieval = noticing(hosts.retrieval.port(release or None), lost)
            return shared.stack(release, to_retrieval, noticing(hosts.ranking.port(release or None), lost))

        self.metrics = Rollouts(registry)
        self._home = settings.data_tenant
        self._shadow = Shadow(shared.policy, self.metrics.compared)
        self.serving = Serving(first, shared.policy, self._shadow.compare, self.metrics.answered)
        self.rollout = Rollout(
            serving=self.serving,
            admission=Admission(hosts, build, shared.policy),
            build=build,
            store=open_rollout(connections, settings),
            metrics=self.metrics,
        )
        self.watch = Watch(self.rollout, settings.limits(), settings.rollout_watch_s)
        self.work: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = self.rollout.run, self.watch.run

    def routes(self) -> Router:
        return rollout_routes(self.rollout, self.watch, self._shadow, self._home)

    async def aclose(self) -> None:
        await self._shadow.aclose()
        await self.rollout.aclose()
