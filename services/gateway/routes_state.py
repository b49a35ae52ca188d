"""The routes of what is stored: events, users and the states of items."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import ValidatorFunctionWrapHandler, WrapValidator

from services.gateway.events import Clicked, Users
from services.gateway.items import Catalogue, Items
from services.gateway.policy import Policy
from services.gateway.ports import CacheStore, Histories, State
from services.http.caller import Tenant, needs
from services.http.routes import Router
from shared.wire.base import Id
from shared.wire.users import (
    ErasedAnswer,
    Event,
    EventBatch,
    EventsAnswer,
    HistoryAnswer,
    ItemAnswer,
    ItemState,
    UserAnswer,
)


def _one_or_many(value: Any, batch: ValidatorFunctionWrapHandler) -> Any:
    """A single event stands for a batch of one. No union: its errors would point beside the fault."""
    if isinstance(value, dict) and "events" not in value:
        return EventBatch.model_construct(events=[Event.model_validate(value)])
    return batch(value)


OneOrMany = Annotated[EventBatch, WrapValidator(_one_or_many, json_schema_input_type=Event | EventBatch)]
UserId = Annotated[Id, Path()]
ItemId = Annotated[Id, Path()]


def state_routes(
    state: State,
    cache: CacheStore,
    histories: Histories,
    retrieval: Catalogue,
    policy: Policy,
    home: str = "default",
    clicked: Clicked = lambda clicks: None,
) -> APIRouter:
    """`home` is the tenant whose users the data folder holds; `clicked` hears of recommended items that were taken."""
    router = Router()
    users = Users(state, cache, histories, home, clicked)
    items = Items(state, retrieval)
    may_read, may_write, may_administer = [needs("read")], [needs("write")], [needs("admin")]

    @router.post("/events", dependencies=may_write, summary="What users did: one event, or up to 500")
    async def events(batch: OneOrMany, tenant: Tenant) -> EventsAnswer:
        return await users.accept(tenant, batch.events)

    # Before the route of the user alone: an id may hold slashes, and would take this one's last word for its own.
    @router.get("/users/{user_id:path}/history", dependencies=may_read, summary="A user's history, oldest first")
    async def history(user_id: UserId, tenant: Tenant) -> HistoryAnswer:
        return await users.history(tenant, user_id)

    @router.get("/users/{user_id:path}", dependencies=may_read, summary="All that events left of a user")
    async def user(user_id: UserId, tenant: Tenant) -> UserAnswer:
        return await users.read(tenant, user_id)

    @router.delete("/users/{user_id:path}", dependencies=may_administer, summary="Forget a user")
    async def erase(user_id: UserId, tenant: Tenant) -> ErasedAnswer:
        return await users.erase(tenant, user_id)

    @router.get(
        "/items/{item_id:path}",
        dependencies=may_read,
        response_model_exclude_none=True,
        summary="One item of the catalogue, and its state",
    )
    async def item(item_id: ItemId, tenant: Tenant) -> ItemAnswer:
        return await items.read(tenant, item_id, policy.deadline())

    @router.put(
        "/items/{item_id:path}",
        dependencies=may_administer,
        response_model_exclude_none=True,
        summary="Whether an item may be recommended",
    )
    async def set_item(item_id: ItemId, wanted: ItemState, tenant: Tenant) -> ItemAnswer:
        return await items.set(tenant, item_id, wanted, policy.deadline())

    return router
