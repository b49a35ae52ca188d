"""Bodies of what is stored: POST /events, /users and /items."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from shared.wire.base import MAX_EVENTS, Answer, Flag, Id, Request, Token, Whole

# The gateway: POST /events, /users, /items


class Event(Request):
    """interaction: the user took it; it joins the history.  dismissal: not wanted; it is only never shown again."""

    event_id: Id = Field(description="The same id twice is one event.")
    user_id: Id | None = None
    session_id: Id | None = None
    item_id: Id
    type: Literal["interaction", "dismissal"] = "interaction"
    timestamp: Whole | None = Field(
        default=None, ge=0, le=1 << 53, description="Milliseconds since 1970; the time of arrival where absent."
    )
    recommendation_id: Id | None = Field(default=None, description="The answer that this event follows from.")

    @model_validator(mode="after")
    def _someone(self) -> Event:
        if self.user_id is None and self.session_id is None:
            raise ValueError("one of user_id and session_id is needed")
        return self


class EventBatch(Request):
    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


class EventsAnswer(Answer):
    """What is acknowledged here is written. `tokens` per user (or session) id, for `after` in POST /recommend."""

    accepted: int
    duplicates: int
    tokens: dict[str, Token]


class UserAnswer(Answer):
    """All that is stored of one user, but what a data folder holds."""

    user_id: str
    item_ids: list[str] = Field(description="The history, oldest first.")
    seen_item_ids: list[str] = Field(description="Beside the history: never recommended.")
    token: Token


class ErasedAnswer(Answer):
    user_id: str
    erased_keys: int


class ItemState(Request):
    """What may be recommended now. categories: in place of the catalogue's, where given."""

    available: Flag = True
    hidden: Flag = False
    categories: list[Id] | None = Field(default=None, max_length=50)


# Gateway and retrieval: GET /items/{id}. Gateway: GET /users/{id}/history


class ItemAnswer(Answer):
    item_id: str
    title: str
    categories: list[str] = Field(default_factory=list)
    state: ItemState | None = None


class HistoryAnswer(Answer):
    """Oldest first: the data folder's, then the events'."""

    user_id: str
    item_ids: list[str]
