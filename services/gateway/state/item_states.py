"""An item's state as it is stored, and the bound on how many there are."""

from __future__ import annotations

from functools import lru_cache

from shared.errors import BadInput
from shared.wire.users import ItemState

DEFAULT = ItemState()


def dumped(state: ItemState) -> str:
    return state.model_dump_json(exclude_defaults=True)


@lru_cache(maxsize=10_000)
def parsed(json: bytes) -> ItemState:
    """Raises ValueError. Most of a tenant's states are the same few."""
    return ItemState.model_validate_json(json)


def too_many(bound: int) -> BadInput:
    return BadInput(
        f"{bound} items have a state of their own, which is the bound: give one its default state again, "
        "leave items out of the catalogue instead, or raise TANDEM_MAX_ITEM_STATES"
    )
