"""What is kept at hand of a list is what would be made anew."""

from __future__ import annotations

import json

from services.gateway.ranked import ITEM_BYTES, Decoded, RankedList
from shared.wire.inner import RankAnswer, RankedItem, RetrieveAnswer, RetrievedItem


def made(size: int = 4, **changes: object) -> RankedList:
    items = [RetrievedItem(item_id=f"i{n}", score=float(size - n)) for n in range(size)]
    found = RetrieveAnswer(items=items, source="retrieval", missing_ids=[], model="m", catalog="c", elapsed_ms=0.0)
    ranked = RankAnswer(
        items=[RankedItem(item_id="i1", score=0.9), RankedItem(item_id="i0", score=0.1)],
        model="llamarec@1",
        ranker="llamarec",
        label_mass=1.0,
        entropy=0.0,
        queue_ms=0.0,
        rank_ms=0.0,
    )
    whole = RankedList(found=found, ranked=ranked, rung="ranker", asked=size)
    return whole.model_copy(update=changes)


def test_the_rankers_items_come_first_and_the_rest_as_retrieved() -> None:
    assert [(one.item.item_id, one.source) for one in made().by_ranker] == [
        ("i1", "llamarec"),
        ("i0", "llamarec"),
        ("i2", "retrieval"),
        ("i3", "retrieval"),
    ]
    assert [one.item.item_id for one in made().by_retriever] == ["i0", "i1", "i2", "i3"]


def test_what_is_kept_at_hand_is_no_part_of_the_list() -> None:
    one = made()
    assert one.by_ranker
    assert one.from_cache.rung == "cache"
    assert (one, one.encoded()) == (made(), made().encoded())


def test_the_same_bytes_are_decoded_once() -> None:
    decoded, value = Decoded(), made().encoded()
    assert decoded.read(value) is decoded.read(bytes(bytearray(value)))
    assert decoded.read(value) == made()


def test_the_oldest_leaves() -> None:
    size = ITEM_BYTES * (1 + len(made().found.items))
    decoded = Decoded(size + size // 2)
    first = decoded.read(made().encoded())
    assert decoded.read(made().encoded()) is first
    assert decoded.read(made(5).encoded()) == made(5)
    assert decoded.read(made().encoded()) is not first
    small = Decoded(size - 1)
    assert small.read(made().encoded()) == small.read(made().encoded()) == made()
    assert small.read(made().encoded()) is not small.read(made().encoded())


def test_what_a_newer_version_says_beside_is_left_out() -> None:
    newer = json.loads(made().encoded())
    newer["found"]["items"][0]["surprise"] = 1
    assert Decoded().read(json.dumps(newer | {"more": {}}).encode()) == made()


def test_what_we_did_not_write_is_none() -> None:
    assert [Decoded().read(value) for value in (b"", b"{}", b"\x00", b'{"rung":"cache"}')] == [None] * 4
