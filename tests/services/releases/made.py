"""A registry with real artifacts in miniature, trained in seconds. Copy it before changing it.

one     data, a retriever, a ranker
two     the same data and retriever, another ranker
three   the same data, another retriever, both rankers' first
bare    the same data and retriever, no ranker
far     another catalogue
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ranker import backbone
from services.releases.publish import publish
from shared.data.prepared import Prepared
from shared.registry import Registry
from tests.ranker import tiny as rankers
from tests.retriever import tiny as retrievers
from tests.shared.data.files import csv, prepare_table, write

ITEMS, USERS, LENGTH = 40, 30, 8
RELEASES = ("one", "two", "three", "bare", "far")


def data(folder: Path, word: str) -> Prepared:
    """Whoever has item i takes item i + 1 next, round the end."""
    rows = [
        (f"u{user}", f"i{(7 * user + step) % ITEMS}", step, f"{word} {(7 * user + step) % ITEMS}")
        for user in range(USERS)
        for step in range(LENGTH)
    ]
    write(folder / "events.csv", csv("user_id,item_id,timestamp,title", rows))
    return prepare_table(folder / "events.csv", folder / "data")[1]


def registry(folder: Path) -> Registry:
    """Without the folders that it was made from."""
    tokenizer = rankers.bpe(rankers.corpus())
    language = rankers.save(folder / "backbone", tokenizer, rankers.llama(len(tokenizer)))
    near, far = data(folder / "near", "Alien"), data(folder / "far", "Brazil")
    quick = replace(retrievers.CONFIG, epochs=1)
    for name, of, seed in (("a", near, 1), ("b", near, 2), ("far", far, 1)):
        retrievers.trained(folder / "retrievers" / name, of, replace(quick, seed=seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        for name, of, seed in (("a", near, 1), ("b", near, 2)):
            rankers.trained(folder / "rankers" / name, language, data=of, seed=seed, prompts=16, binding_prompts=8)
    made = Registry(folder / "registry")
    for name, of, retriever, ranker in (
        ("one", "near", "a", ["a"]),
        ("two", "near", "a", ["b"]),
        ("three", "near", "b", ["a"]),
        ("bare", "near", "a", []),
        ("far", "far", "far", []),
    ):
        folders = [folder / "rankers" / one for one in ranker]
        publish(made, folder / of / "data", folder / "retrievers" / retriever, folders, name)
    made.promote("one")
    return made
