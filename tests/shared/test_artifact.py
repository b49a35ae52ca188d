"""All of an artifact or nothing; nothing that was changed; nothing of another kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.artifact import (
    MANIFEST,
    Manifest,
    alone,
    open_artifact,
    package_versions,
    require_replaceable,
    require_writable,
    seal,
    write_text,
    writing,
)
from shared.errors import BadArtifact, BadInput, ChecksumMismatch, MissingFile


def make(folder: Path, content: bytes = b"weights", kind: str = "retriever") -> Manifest:
    with writing(folder) as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "w.bin").write_bytes(content)
        return seal(draft, Manifest(kind=kind, method="lrurec", config={"d": 64}, seed=1))  # type: ignore[arg-type]


def test_what_is_sealed_opens_as_it_was(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    assert open_artifact(tmp_path / "a", "retriever", ["lrurec"]) == made
    assert set(made.files) == {"sub/w.bin"}


def test_an_error_while_writing_leaves_the_old_folder(tmp_path: Path) -> None:
    old = make(tmp_path / "a")
    with pytest.raises(FileNotFoundError), writing(tmp_path / "a") as draft:
        (draft / "no such folder" / "half").write_text("...")
    assert open_artifact(tmp_path / "a", "retriever") == old
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_interrupted_first_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "a"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_new_artifact_takes_the_place_of_the_old(tmp_path: Path) -> None:
    old, new = make(tmp_path / "a"), make(tmp_path / "a", b"other")
    assert open_artifact(tmp_path / "a", "retriever") == new
    assert old.version != new.version
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    make(tmp_path / "a")
    file = tmp_path / "a" / "sub" / "w.bin"
    good = file.read_bytes()
    for place in range(len(good)):
        file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(ChecksumMismatch, match=r"w\.bin"):
            open_artifact(tmp_path / "a", "retriever")
    file.write_bytes(good)
    open_artifact(tmp_path / "a", "retriever")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "sub" / "w.bin").unlink()
    with pytest.raises(MissingFile, match=r"sub/w\.bin.*tandem train retriever"):
        open_artifact(tmp_path / "a", "retriever")


def test_another_kind_or_method_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(BadArtifact, match=r"retriever artifact where a ranker"):
        open_artifact(tmp_path / "a", "ranker")
    with pytest.raises(BadArtifact, match=r"'lrurec'.*popularity"):
        open_artifact(tmp_path / "a", "retriever", ["popularity"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "retriever"}', '{"kind": "x", "method": "y"}'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BadArtifact, match="cannot be read"):
        open_artifact(tmp_path, "retriever")


def test_a_folder_without_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="tandem data prepare"):
        open_artifact(tmp_path / "nowhere", "data")


def test_a_manifest_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "a").mkdir()
    manifest = Manifest(kind="data", method="table", files={"../secret": "0" * 64})
    write_text(tmp_path / "a" / MANIFEST, manifest.model_dump_json())
    with pytest.raises(BadArtifact, match="outside its folder"):
        open_artifact(tmp_path / "a", "data")


def test_only_an_artifact_or_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    for name in ("a", "empty", "new"):
        require_replaceable(tmp_path / name)
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(BadInput, match="will not be replaced"):
            require_replaceable(folder)


def test_one_at_a_time_makes_an_artifact(tmp_path: Path) -> None:
    out = tmp_path / "new" / "a"
    with alone(out):
        with pytest.raises(BadInput, match="another process"), alone(out):
            pass
        with alone(out.with_name("b")):
            pass
    with alone(out):
        pass
    assert list(out.parent.iterdir()) == []


def test_what_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for required in (require_writable, require_replaceable):
        with pytest.raises(BadInput, match="cannot be written"):
            required(tmp_path / "file" / "a")
    require_writable(tmp_path / "new" / "newer" / "a.json")


def test_the_version_is_of_the_content_not_of_the_packages() -> None:
    one = Manifest(kind="data", method="table", packages={"polars": "1"}, metrics={"n": 1})
    two = one.model_copy(update={"packages": {"polars": "2"}, "metrics": {}})
    other = one.model_copy(update={"config": {"min_user": 3}})
    assert one.version == two.version != other.version
    assert one.name == f"table@{one.version}"


def test_write_text_replaces_whole_and_leaves_no_draft(tmp_path: Path) -> None:
    write_text(tmp_path / "deep" / "f", "old")
    write_text(tmp_path / "deep" / "f", "new")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "deep" / "f", "\ud800")
    assert (tmp_path / "deep" / "f").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["f"]


def test_package_versions_leave_out_what_is_not_installed() -> None:
    assert set(package_versions("polars", "no-such-distribution")) == {"python", "polars"}
