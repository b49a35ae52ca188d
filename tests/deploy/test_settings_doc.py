"""docs/settings.md is what the settings classes say, and no page or message names a variable that nobody reads."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import services
from services.commands.settings import ELSEWHERE, SERVICES, env, markdown, text, variables
from services.http.settings import PREFIX, HttpSettings, read

ROOT = Path(__file__).parents[2]
NAME = re.compile(rf"\b{PREFIX}[A-Z0-9_]*[A-Z0-9]\b")
KNOWN = {variable.name for variable in variables()} | set(ELSEWHERE)


def test_the_page_is_made_from_the_classes() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == markdown(variables()), "run: make generated"


def test_every_settings_class_is_listed() -> None:
    for module in pkgutil.walk_packages(services.__path__, "services."):
        if module.name.endswith(".settings"):
            importlib.import_module(module.name)
    listed = {base for service in SERVICES.values() for base in service.__mro__}
    made = [one for one in _below(HttpSettings) if one.__module__.startswith("services.")]
    assert [one.__name__ for one in made if one not in listed] == []


def _below(cls: type) -> set[type]:
    return {cls}.union(*(_below(one) for one in cls.__subclasses__()))


@pytest.mark.parametrize("variable", variables(), ids=lambda variable: variable.name)
def test_every_variable_says_what_it_means(variable: object) -> None:
    assert str(getattr(variable, "meaning")).strip()  # noqa: B009


@pytest.mark.parametrize("folder", ["docs", "services", "shared", "ranker", "retriever", "deploy", "docker"])
def test_nothing_names_a_variable_that_nobody_reads(folder: str) -> None:
    kinds = {".py", ".md", ".yaml", ".yml", ".env", ".json", ".sh", ".Dockerfile"}
    if folder == "docker":  # what its scripts tell one another is no setting
        kinds.remove(".py")
    files = [file for file in (ROOT / folder).rglob("*") if file.suffix in kinds and file.is_file()]
    named = {name: file.name for file in files for name in NAME.findall(file.read_text())}
    assert {name: where for name, where in named.items() if name not in KNOWN} == {}


@pytest.mark.parametrize("service", SERVICES)
def test_the_file_of_defaults_is_what_holds_without_it(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without = read(SERVICES[service])
    for line in env(variables([service])).splitlines():
        name, equals, value = line.removeprefix("# ").partition("=")
        if equals and value and name in KNOWN:
            monkeypatch.setenv(name, value)
    assert read(SERVICES[service]) == without


def test_a_default_that_differs_is_told_apart() -> None:
    (bytes_,) = [one for one in variables() if one.name == "TANDEM_MAX_BODY_BYTES"]
    assert bytes_.default == "1048576; retrieval: 4194304"
    assert bytes_.services == "all"
    assert "default: 1048576; values: from 1,024; read by: gateway\n" in text(variables(["gateway"]))
