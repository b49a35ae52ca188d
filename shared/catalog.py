"""The items that can be recommended: ids at the edges, dense indices 1..n inside, 0 for padding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shared.errors import BadInput, CatalogMismatch, UnknownItem

PAD = 0


@dataclass(frozen=True, slots=True)
class Item:
    id: str
    title: str
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Catalog:
    """Item i of `items` has the dense index i + 1. Raises BadInput on a repeated id or an empty title."""

    items: tuple[Item, ...]
    _index: dict[str, int] = field(init=False, repr=False, compare=False)
    _fingerprint: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {item.id: i for i, item in enumerate(self.items, start=1)}
        if len(index) != len(self.items):
            raise BadInput(f"the catalogue repeats item ids: {len(self.items)} items, {len(index)} ids")
        untitled = next((item.id for item in self.items if not item.title), None)
        if untitled is not None:
            raise BadInput(f"item {untitled!r} has no title, and a language model ranks titles; leave it out")
        object.__setattr__(self, "_index", index)
        object.__setattr__(self, "_fingerprint", _digest(self.items))

    def __len__(self) -> int:
        return len(self.items)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._index

    def __getitem__(self, index: int) -> Item:
        """By dense index, 1..n."""
        if not 1 <= index <= len(self.items):
            raise IndexError(f"dense index {index} is outside 1..{len(self.items)}")
        return self.items[index - 1]

    def index(self, item_id: str) -> int:
        try:
            return self._index[item_id]
        except KeyError:
            raise UnknownItem(f"item {item_id!r} is not in the catalogue of {len(self)} items") from None

    def indices(self, item_ids: Iterable[str]) -> tuple[list[int], list[str]]:
        """Dense indices of the known ids, in order, and the ids that the catalogue does not know."""
        known, unknown = [], []
        for item_id in item_ids:
            index = self._index.get(item_id)
            if index is None:
                unknown.append(item_id)
            else:
                known.append(index)
        return known, unknown

    @property
    def titles(self) -> Sequence[str]:
        """By dense index; titles[PAD] is empty."""
        return ("", *(item.title for item in self.items))

    def fingerprint(self) -> str:
        """sha256 over ids, titles and categories in index order: catalogues that differ anywhere differ here."""
        return self._fingerprint

    def require(self, fingerprint: str, owner: str) -> None:
        """Raises CatalogMismatch unless `owner` was made for this catalogue."""
        if fingerprint != self._fingerprint:
            raise CatalogMismatch(
                f"{owner} was made for catalogue {fingerprint[:12]}, but the data folder holds catalogue "
                f"{self._fingerprint[:12]} ({len(self)} items). Train it on this data folder, or point to the "
                "data folder that it was trained on."
            )


def _digest(items: Iterable[Item]) -> str:
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item.id, item.title, list(item.categories)], ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()
