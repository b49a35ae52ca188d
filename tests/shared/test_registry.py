"""A registry: names that lead nowhere else, releases that never change, a pointer to what is whole."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.artifact import MANIFEST, Kind, Manifest, seal, sha256
from shared.errors import BadArtifact, BadInput, CatalogMismatch, ChecksumMismatch, MissingFile, UnknownRelease
from shared.registry import CURRENT, Part, Registry, Release, is_release_id

CATALOG = "c" * 64


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def part(registry: Registry, kind: Kind, method: str, catalog: str = CATALOG) -> Part:
    """An artifact in its place."""
    draft = registry.folder / "draft"
    draft.mkdir(parents=True)
    (draft / "weights.bin").write_bytes(method.encode())
    made = seal(draft, Manifest(kind=kind, method=method, catalog_fingerprint=catalog))
    found = Part(name=made.name, sha256=sha256(draft / MANIFEST))
    registry.place(found).parent.mkdir(exist_ok=True)
    draft.rename(registry.place(found))
    return found


def release(registry: Registry, name: str = "one", catalog: str = CATALOG) -> Release:
    parts = part(registry, "data", f"{name}-data", catalog), part(registry, "retriever", f"{name}-lrurec")
    ranker = part(registry, "ranker", f"{name}-llamarec")
    return Release(id=name, data=parts[0], retriever=parts[1], rankers=(ranker,), created=datetime.now(UTC))


def test_what_is_added_is_found_again(registry: Registry) -> None:
    made = registry.add(release(registry))
    assert registry.release("one") == made == registry.check("one")
    assert registry.ids() == ["one"]


def test_adding_the_same_again_changes_nothing_and_something_else_is_refused(registry: Registry) -> None:
    made = registry.add(release(registry))
    later = made.model_copy(update={"created": datetime(2030, 1, 1, tzinfo=UTC)})
    assert registry.add(later) == made
    with pytest.raises(BadInput, match="never changes"):
        registry.add(release(registry, "other").model_copy(update={"id": "one"}))
    assert registry.release("one") == made


def test_an_unknown_release_is_told_with_those_that_are_known(registry: Registry) -> None:
    with pytest.raises(UnknownRelease, match="no release at all"):
        registry.release("two")
    registry.add(release(registry))
    with pytest.raises(UnknownRelease, match="it holds one"):
        registry.release("two")


def test_the_current_release_is_the_one_that_was_promoted(registry: Registry) -> None:
    for name in ("one", "two"):
        registry.add(release(registry, name))
    with pytest.raises(UnknownRelease, match="no current release"):
        registry.current()
    assert (registry.promote("one"), registry.current()) == (None, "one")
    assert (registry.promote("two"), registry.current()) == ("one", "two")
    assert registry.current_data() == registry.place(registry.release("two").data)


@pytest.mark.parametrize("damage", ["file", "manifest", "gone"])
def test_half_a_release_is_not_promoted(damage: str, registry: Registry) -> None:
    registry.add(release(registry))
    registry.promote("one")
    folder = registry.place(registry.add(release(registry, "two")).retriever)
    if damage == "gone":
        (folder / "weights.bin").unlink()
    else:
        (folder / {"file": "weights.bin", "manifest": MANIFEST}[damage]).write_bytes(b"x")
    with pytest.raises((ChecksumMismatch, MissingFile)):
        registry.promote("two")
    assert (registry.folder / CURRENT).read_text() == "one\n"


def test_parts_of_two_catalogues_are_no_release(registry: Registry) -> None:
    registry.add(release(registry, catalog="d" * 64))
    with pytest.raises(CatalogMismatch, match="'one'"):
        registry.whole("one")


@pytest.mark.parametrize("text", ["", "{", "{}", '{"id": "one"}', "\xff"])
def test_a_file_that_is_no_release_is_refused_by_its_name(text: str, registry: Registry) -> None:
    registry.add(release(registry))
    registry.path_of("one").write_text(text)
    with pytest.raises(BadArtifact, match=r"one\.json cannot be read"):
        registry.release("one")


def test_a_release_under_another_name_is_refused(registry: Registry) -> None:
    registry.add(release(registry))
    registry.path_of("one").rename(registry.path_of("two"))
    with pytest.raises(BadArtifact, match="says that it is the release 'one'"):
        registry.release("two")


@given(st.text(max_size=80) | st.from_regex(r"[./a-z\\]{1,20}", fullmatch=True))
def test_no_id_leads_out_of_the_folder(text: str) -> None:
    folder = Path("/registry/releases")
    if is_release_id(text):
        assert Registry(folder.parent).path_of(text).resolve().parent == folder
    else:
        with pytest.raises(UnknownRelease):
            Registry(folder.parent).release(text)


@given(st.text(max_size=40) | st.from_regex(r"[./a-z@\\]{1,20}", fullmatch=True))
def test_no_name_of_an_artifact_leads_out_of_the_folder(text: str) -> None:
    folder = Path("/registry")
    for name in (text, f"{text}@0123abcd"):
        try:
            place = Registry(folder).place(Part(name=name, sha256="0" * 64))
        except ValidationError:
            continue
        assert place.resolve().parent == folder / "artifacts"
