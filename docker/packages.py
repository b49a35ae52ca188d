"""What an image installs, from the packages of this environment: their versions or their sizes.

python docker/packages.py pins > docker/constraints.txt      what was tested is what the images install
python docker/packages.py sizes                              MB by image, for the comments in the Dockerfiles
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMAGES = {
    "gateway": (),
    "retrieval": ("retrieval", "fetch"),
    "ranking": ("ranking", "fetch"),
    "train": ("models", "fetch"),
}
"""The extras that each installs. ranking-cuda installs vLLM, whose versions it pins itself."""


def closure(extras: Sequence[str]) -> dict[str, Distribution]:
    """Everything that pip installs for them, the project left out. Raises PackageNotFoundError."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    left = list(_named(_asked(extras)))
    while left:
        name, wanted = left.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        found[name] = distribution(name)
        left += _named(_applying(found[name].requires or (), wanted))
    return dict(sorted(found.items()))


def _asked(extras: Sequence[str]) -> list[Requirement]:
    """By pyproject.toml: what an editable install knows of it may be older."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    left, asked = [*extras], _applying(project["dependencies"])
    while left:
        for one in _applying(project["optional-dependencies"][left.pop()]):
            left += one.extras if one.name == project["name"] else ()
            asked += [one] if one.name != project["name"] else []
    return asked


def _applying(texts: Iterable[str], extra: str = "") -> list[Requirement]:
    requirements = [Requirement(text) for text in texts]
    return [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": extra})]


def _named(requirements: Iterable[Requirement]) -> Iterator[tuple[str, str]]:
    for one in requirements:
        for extra in ("", *one.extras):
            yield canonicalize_name(one.name), extra


def megabytes(package: Distribution) -> float:
    """Of its files on the disk, compiled modules included."""
    paths = [Path(str(package.locate_file(file))) for file in package.files or ()]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def version(package: Distribution) -> str:
    """Without the build's own mark: 2.13.0+cpu is 2.13.0 to an index that has only that."""
    return package.version.partition("+")[0]


def pins() -> str:
    head = "# Made by: python docker/packages.py pins > docker/constraints.txt\n"
    return head + "".join(f"{name}=={version(package)}\n" for name, package in closure(IMAGES["train"]).items())


def sizes() -> str:
    lines = []
    for image, extras in IMAGES.items():
        packages = {name: megabytes(package) for name, package in closure(extras).items()}
        largest = sorted(packages, key=packages.__getitem__, reverse=True)[:4]
        told = ", ".join(f"{name} {packages[name]:.0f}" for name in largest)
        lines.append(f"{image:<10} {sum(packages.values()):6.0f} MB in {len(packages)} packages: {told}\n")
    return "".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] not in (["pins"], ["sizes"]):
        sys.exit(__doc__)
    sys.stdout.write(pins() if sys.argv[1] == "pins" else sizes())
