"""Several LRURecs as one: its scores are the sums of theirs, trained, loaded and remembered."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from retriever.ensemble import Ensemble
from retriever.join import join
from retriever.retrieve import LRURecRetriever, build_index, load
from retriever.states import States
from shared.artifact import open_artifact
from shared.errors import BadInput, ChecksumMismatch
from shared.history import History
from tests.retriever import tiny

DATA = tiny.cycle()
HISTORIES = [[3], [4, 5, 6], list(range(1, 8)), [7, 7, 2]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = [tmp_path_factory.mktemp("members") / f"seed-{seed}" for seed in (1, 2, 3)]
    for seed, folder in enumerate(made, start=1):
        tiny.trained(folder, DATA, replace(tiny.CONFIG, seed=seed, epochs=1))
    return made


@pytest.fixture(scope="module")
def folder(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ensemble") / "artifact"
    join(DATA, folders, out)
    return out


def test_its_scores_are_the_sums_of_its_members(folder: Path, folders: list[Path]) -> None:
    k = len(DATA.catalog)
    histories = [History(tuple(items)) for items in HISTORIES]
    totals = [Counter[int]() for _ in histories]
    for member in folders:
        for total, found in zip(totals, load(member, DATA.catalog).retriever.retrieve(histories, k), strict=True):
            total.update({candidate.item: candidate.score for candidate in found})  # type: ignore[dict-item]
    for total, found in zip(totals, load(folder, DATA.catalog).retriever.retrieve(histories, k), strict=True):
        assert {c.item: c.score for c in found} == pytest.approx(dict(total), abs=1e-4)
        assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)


def test_what_it_remembers_changes_no_vector(folder: Path) -> None:
    plain, remembering = (load(folder, DATA.catalog).retriever for _ in range(2))
    outcomes: Counter[str] = Counter()
    remembering.remember(States("v", 1 << 20, lambda outcome: outcomes.update([outcome])))
    for extra in ([], [9], [9], [9, 1, 2]):
        asked = [[*items, *extra] for items in HISTORIES]
        np.testing.assert_allclose(remembering.encode(asked), plain.encode(asked), atol=1e-5)
    assert outcomes == {"whole": 4, "advanced": 8, "known": 4}


def test_a_state_of_another_model_is_none_of_its(folder: Path, folders: list[Path]) -> None:
    ensemble, alone = (load(one, DATA.catalog).retriever for one in (folder, folders[0]))
    states = States("v", 1 << 20)
    for retriever in (ensemble, alone):
        retriever.remember(states)
    expected = load(folder, DATA.catalog).retriever.encode(HISTORIES)
    alone.encode(HISTORIES)
    np.testing.assert_allclose(ensemble.encode(HISTORIES), expected, atol=1e-5)


def test_its_artifact_says_of_whom_it_is_made_and_is_whole(folder: Path, folders: list[Path]) -> None:
    manifest = open_artifact(folder, "retriever", methods=("lrurec",))
    assert manifest.config["members"] == 3
    assert manifest.extra["members"] == [open_artifact(member, "retriever").name for member in folders]
    assert manifest.name not in manifest.extra["members"]
    weights = folder / "lrurec-3.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(ChecksumMismatch, match=r"lrurec-3\.safetensors"):
        load(folder, DATA.catalog)
    weights.write_bytes(kept)


def test_one_alone_is_none_and_an_ensemble_is_no_member(folder: Path, folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least twice"):
        join(DATA, folders[:1], tmp_path / "out")
    with pytest.raises(BadInput, match="is an ensemble itself"):
        join(DATA, [folders[0], folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_members_must_be_trained_alike(folders: list[Path], tmp_path: Path) -> None:
    tiny.trained(tmp_path / "wide", DATA, replace(tiny.CONFIG, width=8, epochs=1))
    with pytest.raises(BadInput, match="another model than the first"):
        join(DATA, [folders[0], tmp_path / "wide"], tmp_path / "out")


def test_an_empty_history_is_at_rest(folders: list[Path]) -> None:
    members = [load(member, DATA.catalog).retriever.model for member in folders]
    model = Ensemble(members)  # type: ignore[arg-type]
    found = LRURecRetriever(model, build_index(model), 10).encode([[]])
    assert found.shape == (1, 48)
    assert torch.equal(torch.from_numpy(found), torch.zeros(1, 48))
