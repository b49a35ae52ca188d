"""`tandem keys`: made, shown, revoked; by several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services import cli
from services.commands.keys import Add, Revoke, run
from services.http.keys import KeyFile, Keys
from shared.errors import Unauthorized


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "keys.json"


def add(file: Path, *words: str) -> int:
    return cli.main(["keys", "add", "--file", str(file), "--tenant", "shop", *words])


def test_a_new_key_opens_what_was_asked_for(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert add(file, "--scopes", "read", "--expires", "2999-01-01", "--rate", "100/second") == 0
    key = capsys.readouterr().out.strip()
    caller = Keys(file)({}, {b"x-api-key": key.encode()})
    assert (caller.tenant, caller.scopes, caller.rate) == ("shop", {"read"}, "100/second")
    assert key not in file.read_text()


def test_a_key_is_shown_once_and_alone_on_stdout(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(file)
    key = capsys.readouterr().out.removesuffix("\n")
    assert key.startswith("td_")
    assert "\n" not in key
    cli.main(["keys", "list", "--file", str(file)])
    shown = capsys.readouterr().out
    assert key.split("_")[1] in shown
    assert key.split("_", 2)[2] not in shown


def test_a_revoked_key_opens_nothing(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(file)
    key = capsys.readouterr().out.strip()
    assert cli.main(["keys", "revoke", key.split("_")[1], "--file", str(file)]) == 0
    with pytest.raises(Unauthorized, match="revoked"):
        Keys(file)({}, {b"x-api-key": key.encode()})


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--scopes", "read,everything"], "read,everything"),
        (["--scopes", "internal"], "internal"),
        (["--scopes", ""], "--scopes"),
        (["--tenant", "a:b"], "a:b"),
        (["--expires", "soon"], "soon"),
        (["--rate", "often"], "often"),
        (["--rate", "0/second"], "0/second"),
    ],
)
def test_what_makes_no_sense_is_named_and_nothing_is_written(
    file: Path, words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(file, *words) == 2
    assert named in capsys.readouterr().err
    assert not file.exists()


def test_an_unknown_id_is_answered_with_where_the_ids_are(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(file)
    assert cli.main(["keys", "revoke", "nobody", "--file", str(file)]) == 2
    assert "tandem keys list" in capsys.readouterr().err


def test_of_several_who_write_at_once_none_is_lost(file: Path) -> None:
    run(Add(file=file, tenant="first"))
    first = KeyFile.read(file).keys[0].id
    jobs = [Add(file=file, tenant=f"t{n}") for n in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, [*jobs[:10], Revoke(id=first, file=file), *jobs[10:]]))
    keys = KeyFile.read(file).keys
    assert {key.tenant for key in keys} == {"first", *(f"t{n}" for n in range(20))}
    assert [key.id for key in keys if key.revoked] == [first]
