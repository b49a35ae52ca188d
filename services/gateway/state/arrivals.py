"""What both stores do with the events of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from services.gateway.ports import Appended, Click, Record, Who
from shared.wire.users import Event

DIGEST_BYTES = 12


@dataclass(frozen=True, slots=True)
class Arrival:
    """One event for one of its owners. place: of the event in the call.  timestamp in milliseconds."""

    place: int
    event_id: bytes
    item_id: str
    dismissed: bool
    timestamp: int


def by_owner(events: Sequence[Event], now_ms: int) -> dict[Who, list[Arrival]]:
    """An event that names a user and a session belongs to both."""
    owned: dict[Who, list[Arrival]] = {}
    for place, event in enumerate(events):
        timestamp = now_ms if event.timestamp is None else event.timestamp
        arrival = Arrival(place, digest(event.event_id), event.item_id, event.type == "dismissal", timestamp)
        for who in owners(event):
            owned.setdefault(who, []).append(arrival)
    return owned


def owners(event: Event) -> list[Who]:
    """The one whose word counts on whether the event is new stands first."""
    named = (("user", event.user_id), ("session", event.session_id))
    return [Who(kind, id_) for kind, id_ in named if id_ is not None]


def digest(event_id: str) -> bytes:
    """Event ids are kept short, and tell nothing: a caller may have put a user id into them."""
    return blake2b(event_id.encode(), digest_size=DIGEST_BYTES).digest()


def linked_sessions(events: Sequence[Event], user_id: str) -> list[str]:
    """Sessions of the user's events: what is erased with the user."""
    return list(dict.fromkeys(e.session_id for e in events if e.user_id == user_id and e.session_id is not None))


def joined(events: Sequence[Event]) -> list[str]:
    """The recommendations that the events say they follow from."""
    return list(dict.fromkeys(event.recommendation_id for event in events if event.recommendation_id is not None))


def appended(
    events: Sequence[Event],
    accepted: Mapping[Who, Sequence[bool]],
    owned: Mapping[Who, Sequence[Arrival]],
    versions: Mapping[Who, int],
    records: Mapping[str, Record],
) -> Appended:
    """`accepted` holds one word per arrival of `owned`."""
    places = {
        (who, arrival.place): new
        for who, arrivals in owned.items()
        for arrival, new in zip(arrivals, accepted[who], strict=True)
    }
    fresh = [event for place, event in enumerate(events) if places[owners(event)[0], place]]
    clicked = [click for event in fresh if (click := _click(event, records)) is not None]
    return Appended(len(fresh), len(events) - len(fresh), versions, clicked)


def _click(event: Event, records: Mapping[str, Record]) -> Click | None:
    record = records.get(event.recommendation_id) if event.recommendation_id else None
    if record is None or event.type != "interaction" or event.item_id not in record.item_ids:
        return None
    return Click(record.ranker, record.rung, record.experiment)
