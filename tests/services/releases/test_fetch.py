"""Releases from a folder, an HTTP server and S3: whole, on from where it was cut off, and nothing that is damaged."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.releases import copy
from services.releases.far import Far
from services.releases.fetch import fetch
from services.releases.publish import publish
from shared.artifact import MANIFEST, sha256
from shared.errors import BadArtifact, BadInput, ChecksumMismatch, MissingFile, Unavailable, UnknownRelease
from shared.registry import ARTIFACTS, CURRENT, RELEASES, Registry
from tests.services.releases import files
from tests.services.releases.files import Server, serving

LARGE = bytes(range(256)) * 40_000
"""Ten megabytes: several blocks."""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "PAUSE_S", 0.0)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Two releases with the same data and rankers; the older one is current. Only to be read."""
    where = tmp_path_factory.mktemp("origin")
    registry = Registry(where / "registry")
    for name, content in (("one", LARGE), ("two", b"others")):
        publish(registry, *files.folders(where / name, content), name)
    path = registry.path_of("one")
    path.write_text(path.read_text().replace('"created": "20', '"created": "19'))
    registry.point("one")
    return registry


@pytest.fixture
def here(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "here")


def weights(registry: Registry, release: str = "one") -> Path:
    return registry.place(registry.release(release).retriever) / "weights.bin"


def draft(registry: Registry, origin: Registry) -> Path:
    """Where the weights of release one are while they come."""
    return registry.folder / ARTIFACTS / f".{origin.release('one').retriever.name}.part" / "weights.bin.part"


def begun(registry: Registry, origin: Registry, content: bytes) -> None:
    draft(registry, origin).parent.mkdir(parents=True)
    draft(registry, origin).write_bytes(content)


def same(registry: Registry, origin: Registry, release: str = "one") -> bool:
    registry.check(release)
    return registry.release(release) == origin.release(release)


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def server(request: pytest.FixtureRequest, origin: Registry) -> Iterator[Server]:
    with serving(origin.folder, request.param) as one:
        yield one


def test_the_current_release_comes_from_a_folder(origin: Registry, here: Registry) -> None:
    assert fetch(Far(str(origin.folder)), here) == ["one"]
    assert same(here, origin)
    assert here.ids() == ["one"]


def test_the_current_release_comes_over_http(server: Server, origin: Registry, here: Registry) -> None:
    assert fetch(Far(server.url), here) == ["one"]
    assert same(here, origin)


def test_what_is_there_is_not_copied_again(server: Server, origin: Registry, here: Registry) -> None:
    fetch(Far(server.url), here, ["one"])
    server.asked.clear()
    fetch(Far(server.url + "/"), here, ["one", "two"])
    assert same(here, origin, "two")
    fetched = {path.split("/")[2] for path, _ in server.asked if ARTIFACTS in path}
    assert fetched == {origin.release("two").retriever.name}


def test_a_cut_connection_is_gone_on_with(server: Server, origin: Registry, here: Registry) -> None:
    server.cut = 3_000_000
    assert fetch(Far(server.url), here) == ["one"]
    assert same(here, origin)
    starts = [int(asked[6:].split("-")[0]) for path, asked in server.asked if "weights" in path and asked]
    assert not server.ranges or min(start for start in starts if start) > 0


def test_an_earlier_run_is_gone_on_with(origin: Registry, here: Registry) -> None:
    begun(here, origin, LARGE[:7_000_000])
    with serving(origin.folder) as server:
        fetch(Far(server.url), here)
    assert same(here, origin)
    ranges = [
        asked for path, asked in server.asked if path.endswith(f"{origin.release('one').retriever.name}/weights.bin")
    ]
    assert ranges[0].startswith("bytes=7000000-")


@pytest.mark.parametrize("left", [b"not what it was" * 100, LARGE, LARGE + b"more"], ids=["other", "all", "too much"])
def test_whatever_an_earlier_run_left_the_file_is_right(
    left: bytes, server: Server, origin: Registry, here: Registry
) -> None:
    begun(here, origin, left)
    fetch(Far(server.url), here)
    assert same(here, origin)
    assert not [path for path in here.folder.rglob("*") if ".part" in path.name]


def test_what_is_damaged_on_the_other_side_is_refused(origin: Registry, here: Registry, tmp_path: Path) -> None:
    there = _copied(origin, tmp_path)
    content = weights(there).read_bytes()
    weights(there).write_bytes(content[:-1] + b"x")
    with pytest.raises(ChecksumMismatch, match=r"weights\.bin has sha256"):
        fetch(Far(str(there.folder)), here)
    assert here.ids() == []
    assert not here.place(origin.release("one").retriever).exists()
    weights(there).write_bytes(content)
    fetch(Far(str(there.folder)), here)
    assert same(here, origin)


@pytest.mark.parametrize("gone", ["weights.bin", MANIFEST])
def test_what_is_missing_on_the_other_side_is_named(
    gone: str, origin: Registry, here: Registry, tmp_path: Path
) -> None:
    there = _copied(origin, tmp_path)
    (weights(there).parent / gone).unlink()
    with pytest.raises(MissingFile, match=gone):
        fetch(Far(str(there.folder)), here)
    assert here.ids() == []


def test_another_manifest_than_the_releases_is_refused(origin: Registry, here: Registry, tmp_path: Path) -> None:
    there = _copied(origin, tmp_path)
    path = weights(there).parent / MANIFEST
    path.write_text(path.read_text() + " ")
    with pytest.raises(ChecksumMismatch, match=MANIFEST):
        fetch(Far(str(there.folder)), here)
    assert here.ids() == []


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "a/../../b", "./a", "manifest.json", ""])
def test_a_manifest_that_names_files_elsewhere_is_refused(
    name: str, origin: Registry, here: Registry, tmp_path: Path
) -> None:
    there = _copied(origin, tmp_path)
    release = there.release("one")
    path = there.place(release.retriever) / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"][name] = sha256(weights(there))
    path.write_text(json.dumps(manifest))
    named = there.path_of("one")
    named.write_text(named.read_text().replace(release.retriever.sha256, sha256(path)))
    with pytest.raises(BadArtifact, match="no file of its own"):
        fetch(Far(str(there.folder)), here)
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name]


def test_what_was_damaged_here_is_copied_again_when_it_is_looked_for(origin: Registry, here: Registry) -> None:
    far = Far(str(origin.folder))
    fetch(far, here)
    weights(here).write_bytes(b"damaged")
    fetch(far, here)
    with pytest.raises(ChecksumMismatch):
        here.check("one")
    fetch(far, here, verify=True)
    assert same(here, origin)


def test_a_release_of_the_same_name_and_other_content_stays(origin: Registry, here: Registry, tmp_path: Path) -> None:
    publish(here, *files.folders(tmp_path / "own", b"own"), "one")
    before = here.release("one")
    with pytest.raises(BadInput, match="never changes"):
        fetch(Far(str(origin.folder)), here)
    assert here.release("one") == before
    here.check("one")


def test_the_newest_come_beside_the_current_one(origin: Registry, here: Registry) -> None:
    assert fetch(Far(str(origin.folder)), here, newest=1) == ["one", "two"]
    assert here.ids() == ["one", "two"]


def test_a_server_that_lists_nothing_says_so(server: Server, here: Registry) -> None:
    with pytest.raises(BadInput, match="--release"):
        fetch(Far(server.url), here, newest=1)


def test_what_is_not_there_is_unknown(server: Server, origin: Registry, here: Registry, tmp_path: Path) -> None:
    for far in (Far(server.url), Far(str(origin.folder))):
        with pytest.raises(UnknownRelease, match="three"):
            fetch(far, here, ["three"])
        with pytest.raises(UnknownRelease, match="no release id"):
            fetch(far, here, ["../one"])
    with pytest.raises(UnknownRelease, match="no current release"):
        fetch(Far(str(tmp_path)), here)


def test_a_current_that_is_no_id_is_refused(here: Registry, tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_text("../../etc/passwd\n")
    with pytest.raises(BadArtifact, match="no release id"):
        fetch(Far(str(tmp_path)), here)


def test_a_page_in_place_of_a_release_is_refused(here: Registry, tmp_path: Path) -> None:
    (tmp_path / RELEASES).mkdir()
    (tmp_path / RELEASES / "one.json").write_text("<html>log in</html>")
    with pytest.raises(BadArtifact, match="cannot be read"):
        fetch(Far(str(tmp_path)), here, ["one"])


def test_a_server_that_is_down_is_unavailable(here: Registry, tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        url = server.url
    with pytest.raises(Unavailable, match="goes on from there"):
        fetch(Far(url), here)


@pytest.mark.parametrize(("url", "told"), [("gopher://host/path", "gopher"), ("gs://bucket/path", "gcsfs")])
def test_a_protocol_that_nobody_here_knows_is_refused_by_name(url: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        Far(url)


def test_no_message_holds_a_password(here: Registry) -> None:
    far = Far("http://somebody:secret@127.0.0.1:9/registry")
    assert far.shown == "http://127.0.0.1:9/registry"
    with pytest.raises(Unavailable) as caught:
        fetch(far, here)
    assert "secret" not in str(caught.value)


def test_two_that_fetch_at_once_both_find_it_whole(origin: Registry, here: Registry) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            fetch(Far(str(origin.folder)), here, ["one", "two"])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert same(here, origin)
    assert same(here, origin, "two")


def test_a_folder_that_cannot_be_written_is_named(origin: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be written"):
        fetch(Far(str(origin.folder)), Registry(tmp_path / "file"))


def _copied(origin: Registry, tmp_path: Path) -> Registry:
    """To be damaged."""
    there = Registry(tmp_path / "there")
    fetch(Far(str(origin.folder)), there)
    there.point("one")
    return there


class TestS3:
    @pytest.fixture
    def bucket(self, origin: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        import boto3
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="models")
        for path in origin.folder.rglob("*"):
            if path.is_file():
                s3.upload_file(str(path), "models", f"tandem/{path.relative_to(origin.folder)}")
        yield "s3://models/tandem"
        server.stop()

    def test_releases_come_from_a_bucket(self, bucket: str, origin: Registry, here: Registry) -> None:
        begun(here, origin, LARGE[:5_000_000])
        assert fetch(Far(bucket), here, newest=2) == ["one", "two"]
        assert same(here, origin)
        assert same(here, origin, "two")
        with pytest.raises(UnknownRelease):
            fetch(Far(bucket), here, ["three"])
