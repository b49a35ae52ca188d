"""Stored histories: ids in the order of events, and nobody where nobody is."""

from __future__ import annotations

import numpy as np
import pytest

from services.gateway.stores import MemoryHistories, NoHistories
from shared.artifact import Manifest
from shared.data.prepared import Prepared
from tests import fakes

pytestmark = pytest.mark.anyio


async def test_a_prepared_users_items_come_oldest_first() -> None:
    offsets, items = np.array([0, 2, 3]), np.array([5, 1, 7], dtype=np.int32)
    prepared = Prepared(fakes.catalog(), ["ann", "bob"], offsets, items, Manifest(kind="data", method="table"))
    store = MemoryHistories(prepared)
    assert await store.get("ann") == ("i5", "i1")
    assert await store.get("bob") == ("i7",)
    assert await store.get("eve") is None


async def test_without_a_data_folder_nobody_is_known() -> None:
    assert await NoHistories().get("ann") is None
