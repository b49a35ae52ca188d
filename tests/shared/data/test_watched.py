"""Reading through the watch changes no byte, and a large file says how far it is."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from shared.data import watched as module
from shared.data.watched import watched


def test_a_large_file_reports_and_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "QUIET_MB", 1)
    content = bytes(range(256)) * 4096 * 3
    (tmp_path / "f.gz").write_bytes(gzip.compress(content, compresslevel=0))
    with watched(tmp_path / "f.gz", "unpack") as raw, gzip.open(raw) as file:
        assert file.read() == content
    assert "unpack f.gz: 3/3 MB" in capsys.readouterr().err


def test_a_small_file_is_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    with watched(tmp_path / "f", "read") as raw:
        assert raw.read() == b"abc"
    assert capsys.readouterr().err == ""
