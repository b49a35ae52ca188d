"""An image's root without Docker: the steps of its Dockerfile, that very file, done in a chroot of a bare Debian.

It knows the instructions that our Dockerfiles use and refuses others. Docker's own parser reads them (package
`dockerfile`). Needs root and debootstrap. Everything is mounted in a namespace of its own: nothing stays mounted.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import dockerfile

CONTEXT = Path(__file__).parents[1]
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")
SUITES = {"12": "bookworm", "13": "trixie"}
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PIP_CONF = Path("/etc/pip.conf")
HOST_FILES = "run/host"
"""Where an image sees the files of this machine that its steps may use."""


@dataclass
class Image:
    """One stage, and at the end what is to run in it. healthcheck: None where the Dockerfile has none."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": DEFAULT_PATH})
    user: str = "0:0"
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] | None = None


def in_own_namespace() -> None:
    """Starts the program again with mounts of its own, unless it has them."""
    if os.environ.get("TANDEM_ROOTFS") == "own":
        return
    if os.geteuid() != 0:
        sys.exit("This needs root: chroot and mount. Run it with sudo.")
    os.environ["TANDEM_ROOTFS"] = "own"
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
    os.execvp(words[0], words)  # noqa: S606


def build(path: Path, work: Path) -> Image:
    """The last stage of a Dockerfile, under `work`; what is there is taken where neither the file nor what it copies
    has changed. Exits where a step fails, as `docker build` does."""
    steps, stages = dockerfile.parse_file(str(path)), {}
    built, digest = work / f"{path.stem}.built", _digest(path, steps)
    there = built.exists() and built.read_text() == digest
    built.unlink(missing_ok=not there)
    for step in steps:
        instruction = step.cmd.upper()
        began = time.monotonic()
        if instruction == "FROM":
            name = step.value[2] if len(step.value) == 3 else "final"
            root = work / f"{path.stem}-{name}"
            image = stages[name] = Image(root) if there else _from(step.value[0], root, stages, work)
        elif not (there and instruction in ("RUN", "COPY", "WORKDIR")):
            _STEPS[instruction](image, step, stages, work)
        took = time.monotonic() - began
        print(f"{path.name} {step.start_line:>3} {took:6.1f} s  {step.original.splitlines()[0][:90]}", flush=True)
    for stage in stages.values():
        if stage is not image:
            remove(stage.root)
    built.write_text(digest)
    return image


def _digest(path: Path, steps: Sequence[dockerfile.Command]) -> str:
    digest = hashlib.sha256(path.read_bytes())
    copied = [step.value[:-1] for step in steps if step.cmd.upper() == "COPY" and not step.flags]
    for source in sorted({CONTEXT / source for sources in copied for source in sources}):
        for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(CONTEXT)).encode() + file.read_bytes())
    return digest.hexdigest()


def _from(base: str, root: Path, stages: Mapping[str, Image], work: Path) -> Image:
    if base in stages:
        _copied(stages[base].root, root)
        return replace(stages[base], root=root, env=dict(stages[base].env))
    found = re.fullmatch(r"debian:(\d+)(\.\d+)?-slim", base)
    if found is None:
        sys.exit(f"FROM {base}: only debian:*-slim can be made without Docker")
    _copied(_debian(SUITES[found[1]], work), root)
    return Image(root)


def _copied(source: Path, target: Path) -> None:
    remove(target)
    _run("cp", "--archive", "--reflink=auto", str(source), str(target))


def remove(root: Path) -> None:
    """Refuses where something is mounted under it: that is not ours to empty."""
    mounts = Path("/proc/self/mounts").read_text().split("\n")
    below = [line.split()[1] for line in mounts if line and line.split()[1].startswith(f"{root}/")]
    for place in reversed(below):
        _run("umount", place)
    shutil.rmtree(root, ignore_errors=False) if root.exists() else None


def _debian(suite: str, work: Path) -> Path:
    """As small as Debian gets, made once."""
    root = work / suite
    if not (root / "complete").exists():
        remove(root)
        mirror = _mirror()
        _run("debootstrap", "--variant=minbase", suite, str(root), mirror)
        lines = [f"deb {mirror} {suite} main", f"deb {mirror} {suite}-updates main"]
        lines.append(f"deb {mirror}-security {suite}-security main")
        (root / "etc/apt/sources.list").write_text("\n".join(lines) + "\n")
        (root / "complete").touch()
    return root


def _mirror() -> str:
    """The one that this machine's own packages come from."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("debian*"))]
    for place in (one for one in places if one.exists()):
        if found := re.search(r"^(?:URIs:|deb(?: \[.*\])?) *(\S+/debian)/?(?:\s|$)", place.read_text(), re.MULTILINE):
            return found[1]
    return "http://deb.debian.org/debian"


# The instructions


def _arg(image: Image, step: dockerfile.Command, stages: Mapping[str, Image], work: Path) -> None:
    """An argument without a default is set by the environment, as by --build-arg."""
    name, _, default = step.value[0].partition("=")
    if name in os.environ or default:
        image.env[name] = os.environ.get(name, default)


def _env(image: Image, step: dockerfile.Command, stages: Mapping[str, Image], work: Path) -> None:
    for name, value in zip(step.value[::2], step.value[1::2], strict=True):
        image.env[name] = value.strip('"')


def _workdir(image: Image, step: dockerfile.Command, stages: Mapping[str, Image], work: Path) -> None:
    image.workdir = step.value[0]
    inside(image, image.workdir).mkdir(parents=True, exist_ok=True)


def _user(image: Image, step: dockerfile.Command, stages: Mapping[str, Image], work: Path) -> None:
    image.user = step.value[0]


def _copy(image: Image, step: dockerfile.Command, stages: Mapping[str, Image], work: Path) -> None:
    *sources, target = step.value
    place = inside(image, target)
    origin = next((flag.partition("=")[2] for flag in step.flags if flag.startswith("--from=")), None)
    for source in sources:
        if origin is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            _run("cp", "--archive", str(inside(stages[origin], source)), str(place))
        elif (CONTEXT / source).is_dir():
            shutil.copytree(CONTEXT / source, place, ignore=IGNORED, dirs_exist_ok=True)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(CONTEXT / source, place)


def _run_step(image: Image, step: dockerfile.Command, stages: Mapping[str, Image], work: Path) -> None:
    """Cache mounts are folders under `work`; the secret `pip` is this machine's pip.conf."""
    mounts = [_mount(image, flag, work) for flag in step.flags if flag.startswith("--mount=")]
    mounts += [_bind(Path(name), image.root / name.strip("/")) for name in ("/dev", "/proc")]
    mounts += [_bind(path, image.root / HOST_FILES / str(path).strip("/")) for path in _pip_paths()]
    shutil.copy("/etc/resolv.conf", image.root / "etc/resolv.conf")
    pip = {name: _seen_inside(value) for name, value in os.environ.items() if name.startswith("PIP_")}
    try:
        enter(image, ["/bin/sh", "-c", step.value[0]], HOME="/root", **pip, check=True)
    finally:
        for place in reversed(mounts):
            _run("umount", "--recursive", "--lazy", str(place))


def _mount(image: Image, flag: str, work: Path) -> Path:
    options = dict(option.partition("=")[::2] for option in flag.removeprefix("--mount=").split(","))
    if options["type"] == "cache":
        source = work / "caches" / options["target"].strip("/").replace("/", "-")
        source.mkdir(parents=True, exist_ok=True)
    elif (options["type"], options["id"]) == ("secret", "pip"):
        source = work / "pip.conf"
        source.write_text(_seen_inside(_text(PIP_CONF)))
    else:
        sys.exit(f"{flag}: only cache mounts and the secret `pip` are known here")
    return _bind(source, inside(image, options["target"]))


def _pip_paths() -> list[Path]:
    """Folders and certificates that pip is told to use on this machine."""
    told = " ".join([*(value for name, value in os.environ.items() if name.startswith("PIP_")), _text(PIP_CONF)])
    paths = (word.removeprefix("file://") for word in told.split())
    return sorted({Path(path) for path in paths if path.startswith("/") and Path(path).exists()})


def _seen_inside(told: str) -> str:
    for path in _pip_paths():
        told = re.sub(rf"(?<![^\s/]){re.escape(str(path))}", f"/{HOST_FILES}{path}", told)
    return told


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _healthcheck(image: Image, step: dockerfile.Command, stages: Mapping[str, Image], work: Path) -> None:
    image.healthcheck = None if step.value[0] == "NONE" else list(step.value[1:])


def _entrypoint(image: Image, step: dockerfile.Command, stages: Mapping[str, Image], work: Path) -> None:
    image.entrypoint = list(step.value)


def _command(image: Image, step: dockerfile.Command, stages: Mapping[str, Image], work: Path) -> None:
    image.command = list(step.value)


def _nothing(image: Image, step: dockerfile.Command, stages: Mapping[str, Image], work: Path) -> None:
    pass


_STEPS = {
    "ARG": _arg,
    "CMD": _command,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _nothing,
    "HEALTHCHECK": _healthcheck,
    "RUN": _run_step,
    "USER": _user,
    "WORKDIR": _workdir,
}


# The chroot


def inside(image: Image, path: str) -> Path:
    """A path of the image, seen from here."""
    return image.root / os.path.normpath(os.path.join(image.workdir, path)).lstrip("/")  # noqa: PTH118


def words(image: Image, command: Sequence[str], **environment: str) -> list[str]:
    """The command that runs another one in the image, as its user, with its environment and no other."""
    settings = [f"{name}={value}" for name, value in (image.env | environment).items()]
    change = ["env", "--chdir", image.workdir] if image.workdir != "/" else ["env"]
    return ["chroot", f"--userspec={image.user}", "--groups=", str(image.root), *change, "-i", *settings, *command]


def enter(image: Image, command: Sequence[str], *, check: bool = False, **environment: str) -> int:
    done = subprocess.run(words(image, command, **environment), check=False)
    if check and done.returncode:
        sys.exit(f"exit code {done.returncode} of: {' '.join(command)}")
    return done.returncode


def freeze(image: Image, mounts: Mapping[str, Path], writable: Mapping[str, Path] | None = None) -> None:
    """Read-only from here on, but for an empty /tmp and what is `writable`; both by their place in it."""
    root = str(image.root)
    _run("mount", "--bind", root, root)
    for name in ("dev", "proc"):
        _bind(Path("/", name), image.root / name)
    for name, source in mounts.items():
        _bind(source.resolve(), image.root / name)
        _run("mount", "--options", "remount,bind,ro", str(image.root / name))
    for name, source in (writable or {}).items():
        _bind(source.resolve(), image.root / name)
    _run("mount", "--options", "remount,bind,ro", root)
    _run("mount", "--types", "tmpfs", "--options", "mode=1777", "tmpfs", str(image.root / "tmp"))


def _bind(source: Path, target: Path) -> Path:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _run("mount", "--rbind" if source.is_dir() else "--bind", str(source), str(target))
    _run("mount", "--make-rslave", str(target))
    return target


def _run(*command: str) -> None:
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"failed: {' '.join(command)}")
