"""Who is answered by which release. What is served at a moment is one immutable plan: a request takes it once, so that
no answer mixes two releases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.gateway.policy import Policy
from services.gateway.rollout.assignment import Split
from services.gateway.stack import Stack
from shared.deadline import Deadline
from shared.errors import DeadlineExceeded, Unavailable
from shared.wire.recommend import (
    Experiment,
    RankItemsRequest,
    RecommendAnswer,
    RecommendRequest,
    RerankAnswer,
    RerankRequest,
)
from shared.wire.users import ItemAnswer

Compare = Callable[[Stack, RecommendRequest, str, RecommendAnswer], None]
"""Takes the shadow, and what the live release answered to whose request."""
Heard = Callable[[Stack, RecommendAnswer], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """A canary that answers its share of the users."""

    stack: Stack
    split: Split
    name: str
    of_live: Experiment = field(init=False)
    of_canary: Experiment = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "of_live", Experiment(name=self.name, variant="live"))
        object.__setattr__(self, "of_canary", Experiment(name=self.name, variant="canary"))


@dataclass(frozen=True, slots=True)
class Plan:
    live: Stack
    trial: Trial | None = None
    shadow: Stack | None = None

    def of(
        self, tenant: str, user_id: str | None, session_id: str | None, history: Sequence[str] | None
    ) -> tuple[Stack, Experiment | None]:
        trial = self.trial
        if trial is None:
            return self.live, None
        if trial.split.takes(tenant, user_id, session_id, history):
            return trial.stack, trial.of_canary
        return self.live, trial.of_live


class Serving:
    """The use cases over whatever is served at present. To swap is to assign `plan`."""

    def __init__(
        self,
        live: Stack,
        policy: Policy,
        compare: Compare = lambda shadow, request, tenant, answer: None,
        heard: Heard | None = None,
    ) -> None:
        """`heard`: of every answer, where somebody counts them by release."""
        self.plan = Plan(live)
        self.policy = policy
        self._compare = compare
        self._heard = heard

    @property
    def live(self) -> Stack:
        return self.plan.live

    async def recommend(
        self, request: RecommendRequest, deadline: Deadline, tenant: str = "default"
    ) -> RecommendAnswer:
        """As Recommender.recommend."""
        plan = self.plan
        stack, experiment = plan.of(tenant, request.user_id, request.session_id, request.history)
        try:
            answer = await stack.recommender.recommend(request, deadline, tenant, experiment)
        except (Unavailable, DeadlineExceeded):
            stack.health.failed()
            raise
        if answer.cache == "miss":
            stack.health.answered(answer)
            if plan.shadow is not None and stack is plan.live:
                self._compare(plan.shadow, request, tenant, answer)
        if self._heard is not None:
            self._heard(stack, answer)
        return answer

    async def rank(self, request: RankItemsRequest, deadline: Deadline, tenant: str = "default") -> RecommendAnswer:
        """As Reranker.rank."""
        stack, experiment = self.plan.of(tenant, request.user_id, request.session_id, request.history)
        return await stack.reranker.rank(request, deadline, tenant, experiment)

    async def rerank(self, request: RerankRequest, deadline: Deadline, tenant: str = "default") -> RerankAnswer:
        """As Reranker.rerank; always by the live release, since the answer has no place for an experiment."""
        return await self.plan.live.reranker.rerank(request, deadline, tenant)

    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        """Raises UnknownItem."""
        return await self.plan.live.retrieval.item(item_id, deadline)
