"""Four methods over one backbone: memory grows by what each adds, and each answers as it does alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ranker import backbone
from ranker.backbone import Pool
from ranker.registry import METHODS, LoadedRanker, load
from shared.artifact import Manifest
from shared.candidate import Candidate
from shared.history import History
from tests.ranker import tiny
from tests.ranker.cllm4rec import made as cllm4rec
from tests.ranker.collm import made as collm
from tests.ranker.llara import made as llara

CATALOG = tiny.DATA.catalog


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = tiny.bpe([*tiny.corpus(), *["Answer: Yes", "Answer: No"] * 20])
    model = tiny.llama(len(tokenizer), layers=6)
    return tiny.save(tmp_path_factory.mktemp("backbone") / "six", tokenizer, model)


@pytest.fixture(scope="module")
def folders(backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        tiny.trained(out / "llamarec", backbone_folder, layers=4)
        collm.trained(out / "collm", backbone_folder)
        collm.trained(out / "tallrec", backbone_folder, tune="text", layers=5)
        llara.trained(out / "llara", backbone_folder)
        cllm4rec.trained(out / "cllm4rec", backbone_folder, layers=3)
    return {name: out / name for name in METHODS}


def weights(loaded: LoadedRanker) -> dict[str, torch.Tensor]:
    """Of the ranker's backbone, adapters included."""
    inner = loaded.ranker
    base = inner.engine.backbone if hasattr(inner, "engine") else inner.scorer.model.base  # type: ignore[attr-defined]
    return dict(base.model.named_parameters())


def test_memory_grows_by_the_adapters_and_not_by_the_backbone(folders: dict[str, Path]) -> None:
    pool = Pool("cpu")
    held: set[int] = set()
    alive = []  # freed memory would be taken for shared
    for place, (name, folder) in enumerate(folders.items()):
        alive.append(load(folder, CATALOG, device="cpu", pool=pool))
        found = weights(alive[-1])
        new = {n for n, t in found.items() if t.data_ptr() not in held}
        adapters = {n for n in found if "lora_" in n}
        assert bool(adapters) is (name != "cllm4rec")
        if place:
            assert new == adapters
        whole = pool.get(bare(folder), layers=0, quantization="none").model
        held |= {t.data_ptr() for t in [*found.values(), *whole.parameters()]}


def bare(folder: Path) -> str:
    return str(Manifest.model_validate_json((folder / "manifest.json").read_bytes()).config["backbone"])


def test_each_answers_over_the_shared_backbone_as_it_does_alone(folders: dict[str, Path]) -> None:
    pool = Pool("cpu")
    given = [Candidate(item, float(30 - item)) for item in range(11, 26)]
    together = [load(folder, CATALOG, device="cpu", pool=pool) for folder in folders.values()]
    for shared, folder in zip(together, folders.values(), strict=True):
        alone = load(folder, CATALOG, device="cpu")
        shared.self_test()
        for one in (shared, alone):
            one.ranker.weight = 1.0  # type: ignore[attr-defined]
        [found], [expected] = (one.ranker.rank([History((3, 4, 5), "u1")], [given]) for one in (shared, alone))
        assert {c.item: c.score for c in found.candidates} == pytest.approx(
            {c.item: c.score for c in expected.candidates}, abs=2e-3
        )


def test_every_method_has_an_order_of_its_own(folders: dict[str, Path]) -> None:
    given = [Candidate(item, float(30 - item)) for item in range(11, 31)]
    orders = set()
    for folder in folders.values():
        ranker = load(folder, CATALOG, device="cpu").ranker
        ranker.weight = 1.0  # type: ignore[attr-defined]
        [ranking] = ranker.rank([History((3, 4, 5), "u1")], [given])
        orders.add(tuple(candidate.item for candidate in ranking.candidates))
    assert len(orders) == len(METHODS)
