"""The gateway's Dockerfile, step by step in a bare Debian, and the service in it; `make images-check` does all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.commands.data import Prepare
from services.commands.data import run as prepare
from shared.artifact import MANIFEST, Manifest, sha256
from shared.registry import Part, Registry, Release
from tests.deploy import compose
from tests.deploy.netns import why_not

reason = why_not() or ("needs debootstrap" if shutil.which("debootstrap") is None else None)
pytestmark = [pytest.mark.real, pytest.mark.timeout(1500), pytest.mark.skipif(reason is not None, reason=str(reason))]


def registry(folder: Path) -> Path:
    """A release of which the gateway needs only the data; no model was ever trained for it."""
    places = [(user, 1 + (user + place) % 60, place) for user in range(1, 31) for place in range(20)]
    rows = [f"{user},{item},{place},Film {item}" for user, item, place in places]
    (folder / "events.csv").write_text("user_id,item_id,timestamp,title\n" + "\n".join(rows) + "\n")
    prepare(Prepare(dataset="table", source=folder / "events.csv", out=folder / "data"))
    made = Registry(folder / "registry")
    digest = sha256(folder / "data" / MANIFEST)
    version = Manifest.model_validate_json((folder / "data" / MANIFEST).read_bytes()).version
    data = Part(name=f"data@{version}", sha256=digest)
    never = Part(name="lrurec@00000000", sha256="0" * 64)
    with made.writing():
        shutil.copytree(folder / "data", made.place(data))
        made.add(Release(id="tiny", data=data, retriever=never, created=datetime.now(UTC)))
    made.point("tiny")
    return made.folder


def test_the_gateways_image_is_built_and_answers_as_nobody_on_a_read_only_root(tmp_path: Path) -> None:
    command = [sys.executable, str(compose.ROOT / "docker" / "images.py"), "gateway"]
    command += ["--registry", str(registry(tmp_path)), "--cache", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "gateway: built, ran and answered" in done.stdout
    assert "gateway: answered from the rung 'static'" in done.stdout
