"""Real artifacts from a registry to services: what is shared, what leaves memory, and what is refused."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services import loading
from services.ranking.releases import RankingReleases
from services.ranking.settings import RankingSettings
from services.releases import start
from services.releases.shelf import Catalogs
from services.retrieval.releases import RetrievalReleases
from services.retrieval.settings import RetrievalSettings
from shared.artifact import MANIFEST, sha256
from shared.deadline import Deadline
from shared.errors import (
    BadArtifact,
    BadInput,
    CatalogMismatch,
    ChecksumMismatch,
    GoldenMismatch,
    MissingFile,
    UnknownRelease,
)
from shared.registry import Part, Registry
from shared.wire.inner import RankRequest, RetrieveRequest
from tests.services.releases.memory import gone

pytestmark = pytest.mark.anyio
Two = tuple[RetrievalReleases, RankingReleases]
HISTORY = ["i3", "i4", "i5"]


def soon() -> Deadline:
    return Deadline.after_ms(60_000)


def started(registry: Registry, catalogs: Catalogs | None = None) -> Two:
    settings = RankingSettings(registry=registry.folder)
    catalogs = catalogs or Catalogs()
    return (
        start.retrieval(None, None, RetrievalSettings(registry=registry.folder), catalogs),
        start.ranking(None, (), settings, catalogs, CollectorRegistry(), None, "cpu"),
    )


@pytest.fixture
def two(registry: Registry) -> Iterator[Two]:
    """The hosts of both stages over a registry that may be damaged."""
    hosts = started(registry)
    yield hosts
    for host in hosts:
        host.close()


async def ranked(host: RankingReleases, release: str | None, catalog: str) -> tuple[str, list[float]]:
    candidates = [{"item_id": f"i{n}", "score": float(-n)} for n in range(6, 16)]
    asked = RankRequest.model_validate({"history": HISTORY, "candidates": candidates, "catalog": catalog})
    answer = await host.port(release).rank(asked, soon())
    return answer.model, [item.score for item in answer.items]


async def retrieved(host: RetrievalReleases, release: str | None) -> tuple[str, str]:
    answer = await host.port(release).retrieve(RetrieveRequest(history=HISTORY, k=5), soon())
    assert len(answer.items) == 5
    return answer.model, answer.catalog


async def test_every_release_answers_with_its_own_models(two: Two, registry: Registry) -> None:
    retrieval, ranking = two
    for name in ("two", "three", "bare"):
        cards = [await host.load(name, soon()) for host in two]
        assert len({card.catalog for card in cards}) == 1
    assert (await ranking.loaded(soon())).releases[-1].default == "retrieval"
    for name in ("one", "two", "three"):
        parts = registry.release(name)
        model, catalog = await retrieved(retrieval, name)
        assert model == parts.retriever.name
        assert (await ranked(ranking, name, catalog))[0] == parts.rankers[0].name
    live, catalog = await retrieved(retrieval, None)
    assert live == registry.release("one").retriever.name
    assert (await ranked(ranking, None, catalog))[0] == registry.release("one").rankers[0].name


async def test_what_two_releases_share_is_loaded_once(two: Two) -> None:
    retrieval, ranking = two
    for name in ("two", "three"):
        for host in two:
            await host.load(name, soon())
    one, same, other = (retrieval.of(name) for name in ("one", "two", "three"))
    assert one is same
    assert other is not one
    catalogs = {id(service._catalog) for service in (one, other, *map(ranking.of, ("one", "two", "three")))}
    assert len(catalogs) == 1
    rankers = [ranking.of(name)._rankers["llamarec"] for name in ("one", "two", "three")]
    assert rankers[0] is rankers[2]
    assert rankers[0] is not rankers[1]
    weights = [_embedding(served.ranker) for served in rankers]
    assert weights[0] == weights[1]


def _embedding(ranker: Any) -> int:
    """Where the first of the backbone's weights lies."""
    return int(ranker.engine.backbone.model.model.embed_tokens.weight.data_ptr())


async def test_rankers_answer_beside_each_other_as_they_do_alone(two: Two, whole: Registry) -> None:
    retrieval, ranking = two
    _, catalog = await retrieved(retrieval, None)
    before = await ranked(ranking, None, catalog)
    await ranking.load("two", soon())
    beside = await ranked(ranking, "two", catalog)
    assert await ranked(ranking, None, catalog) == before
    folder = whole.place(whole.release("two").rankers[0])
    alone = loading.ranker(folder, ranking.live._catalog, None, "cpu", None)
    assert beside[0] == alone.card.name
    alone.self_test()


async def test_what_is_unloaded_leaves_memory_and_what_it_shared_stays(two: Two) -> None:
    retrieval, ranking = two
    _, catalog = await retrieved(retrieval, None)
    for host in two:
        await host.load("three", soon())
    await ranking.load("two", soon())
    await retrieved(retrieval, "three")
    await ranked(ranking, "two", catalog)
    unique = [weakref.ref(retrieval.of("three")), weakref.ref(retrieval.of("three")._retriever)]
    unique += [weakref.ref(ranking.of("two")), weakref.ref(_model(ranking, "two"))]
    shared = [weakref.ref(_model(ranking, "three")), weakref.ref(retrieval.live)]
    assert all(one() is not None for one in unique)
    await retrieval.unload("three", soon())
    await ranking.unload("two", soon())
    await ranking.unload("three", soon())
    await gone(*unique)
    assert all(one() is not None for one in shared)
    assert (await ranked(ranking, None, catalog))[0] == ranking.live.described("one").models[0].name


def _model(host: RankingReleases, release: str) -> Any:
    ranker: Any = host.of(release)._rankers["llamarec"].ranker
    return ranker.engine.backbone.model


async def test_a_backbone_leaves_memory_with_the_last_ranker_on_it(registry: Registry, whole: Registry) -> None:
    """Where another release is made on another one: here the same weights in another folder."""
    retrieval, ranking = started(registry)
    ranker = registry.release("two").rankers[0]
    manifest = json.loads((registry.place(ranker) / MANIFEST).read_text())
    moved = registry.folder / "elsewhere"
    shutil.copytree(manifest["config"]["backbone"], moved)
    manifest["config"]["backbone"] = str(moved)
    (registry.place(ranker) / MANIFEST).write_text(json.dumps(manifest))
    _resealed(registry, "two", ranker)
    await ranking.load("two", soon())
    served = ranking.of("two")._rankers["llamarec"]
    assert served.shares is not ranking.live._rankers["llamarec"].shares
    pool = weakref.ref(served.shares)
    del served
    await ranking.unload("two", soon())
    await gone(pool)
    for host in (retrieval, ranking):
        host.close()


def _resealed(registry: Registry, release: str, part: Part) -> None:
    """The release names the manifest as it is now."""
    path = registry.path_of(release)
    path.write_text(path.read_text().replace(part.sha256, sha256(registry.place(part) / MANIFEST)))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _of(registry: Registry, kind: str, name: str) -> Path:
    release = registry.release("three" if kind == "retriever" else "two")
    return registry.place(release.retriever if kind == "retriever" else release.rankers[0]) / name


DAMAGES: dict[str, tuple[str, Callable[[Registry], object], type[BadArtifact]]] = {
    "flipped weights": ("three", lambda r: flip(_of(r, "retriever", "lrurec.safetensors")), ChecksumMismatch),
    "flipped index": ("three", lambda r: flip(_of(r, "retriever", "index.faiss")), ChecksumMismatch),
    "half copied": ("three", lambda r: _of(r, "retriever", "lrurec.safetensors").unlink(), MissingFile),
    "no manifest": ("three", lambda r: _of(r, "retriever", MANIFEST).unlink(), MissingFile),
    "other manifest": ("three", lambda r: flip(_of(r, "retriever", MANIFEST)), ChecksumMismatch),
    "no data": ("far", lambda r: shutil.rmtree(r.place(r.release("far").data)), MissingFile),
    "cut release": ("three", lambda r: r.path_of("three").write_text("{"), BadArtifact),
    "no such thing": ("three", lambda r: r.path_of("three").write_text("{}"), BadArtifact),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_release_is_refused_and_the_live_one_serves_on(
    damage: str, two: Two, registry: Registry
) -> None:
    retrieval, _ = two
    release, harm, error = DAMAGES[damage]
    before = await retrieved(retrieval, None)
    harm(registry)
    with pytest.raises(error):
        await retrieval.load(release, soon())
    assert [card.release for card in (await retrieval.loaded(soon())).releases] == ["one"]
    assert await retrieved(retrieval, None) == before


async def test_a_damaged_adapter_is_refused_and_the_live_one_ranks_on(two: Two, registry: Registry) -> None:
    retrieval, ranking = two
    _, catalog = await retrieved(retrieval, None)
    before = await ranked(ranking, None, catalog)
    flip(_of(registry, "ranker", "adapter.safetensors"))
    with pytest.raises(ChecksumMismatch):
        await ranking.load("two", soon())
    assert await ranked(ranking, None, catalog) == before


async def test_a_ranker_that_does_not_reproduce_its_golden_score_is_refused(two: Two, registry: Registry) -> None:
    _, ranking = two
    ranker = registry.release("two").rankers[0]
    manifest = json.loads((registry.place(ranker) / MANIFEST).read_text())
    manifest["extra"]["golden"]["logits"] = manifest["extra"]["golden"]["logits"][::-1]
    (registry.place(ranker) / MANIFEST).write_text(json.dumps(manifest))
    _resealed(registry, "two", ranker)
    with pytest.raises(GoldenMismatch):
        await ranking.load("two", soon())
    assert [card.release for card in (await ranking.loaded(soon())).releases] == ["one"]


async def test_parts_of_different_catalogues_are_refused(two: Two, registry: Registry) -> None:
    release = json.loads(registry.path_of("three").read_text())
    release["data"] = registry.release("far").data.model_dump()
    registry.path_of("three").write_text(json.dumps(release))
    for host in two:
        with pytest.raises(CatalogMismatch, match="three"):
            await host.load("three", soon())


@pytest.mark.parametrize("release", ["nothing", "../one", "..", "one/../one", "One", ""])
async def test_what_the_registry_does_not_hold_is_unknown(release: str, two: Two) -> None:
    for host in two:
        with pytest.raises(UnknownRelease):
            await host.load(release, soon())


def test_what_starts_together_is_of_one_release(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one becomes the current while models load."""
    settings, catalogs = RankingSettings(registry=registry.folder), Catalogs()
    release, _ = start.current(settings)
    first = start.retrieval(None, None, RetrievalSettings(registry=registry.folder), catalogs, release=release)
    other = next(one for one in registry.ids() if one != release)
    registry.promote(other)
    assert start.current(settings)[0] == other
    second = start.ranking(None, (), settings, catalogs, CollectorRegistry(), None, "cpu", release)
    assert [host.of(release) for host in (first, second)] == [first.live, second.live]
    for host in (first, second):
        host.close()


def test_a_registry_without_a_current_release_starts_nothing(registry: Registry) -> None:
    (registry.folder / "current").unlink()
    with pytest.raises(UnknownRelease, match="promote"):
        started(registry)


@pytest.mark.parametrize("given", [{}, {"data": Path("d")}, {"retriever": Path("r")}])
def test_half_a_configuration_starts_nothing(given: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match="--registry"):
        start.retrieval(given.get("data"), given.get("retriever"), RetrievalSettings(), Catalogs())


async def test_folders_are_served_as_local_beside_the_registrys_releases(registry: Registry) -> None:
    settings = RetrievalSettings(registry=registry.folder)
    release = registry.release("three")
    host = start.retrieval(registry.place(release.data), registry.place(release.retriever), settings, Catalogs())
    await host.load("one", soon())
    found = await host.loaded(soon())
    host.close()
    assert (found.live, [card.release for card in found.releases]) == ("local", ["local", "one"])


async def test_an_equal_catalogue_is_one_object_for_both_services(whole: Registry) -> None:
    catalogs = Catalogs()
    folder = whole.place(whole.release("one").data)
    first, second = catalogs.of(folder), catalogs.prepared(folder).catalog
    assert first is second
    there = weakref.ref(first)
    del first, second
    await gone(there)
