"""`tandem settings`: every environment variable of the services, out of the classes that read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from services.gateway.settings import GatewaySettings
from services.http.settings import PREFIX, HttpSettings
from services.ranking.settings import RankingSettings
from services.retrieval.settings import RetrievalSettings

SERVICES: Mapping[str, type[HttpSettings]] = {
    "gateway": GatewaySettings,
    "retrieval": RetrievalSettings,
    "ranking": RankingSettings,
}
ELSEWHERE = {
    "TANDEM_CACHE": "Where commands keep what they download, backbones among it; unset: `~/.cache/tandem`.",
    "TANDEM_KERNELS": "Where the CPU kernels are kept, compiled; `off`: torch's own operators alone; unset: the cache.",
}
"""What is read without a settings class."""
ALIKE = 0.85
SHOW = " `tandem settings` shows all there are."
BOUNDS = ((Ge, "ge", "from {}"), (Gt, "gt", "above {}"), (Le, "le", "to {}"), (Lt, "lt", "below {}"))
PAGE = """# Settings

Made by `make generated` out of the classes that read them; a test holds it to them. `tandem settings` shows the same.
Variables of the environment are all there is: `tandem serve` reads them once, and names the one that it cannot take,
or that nothing reads.
`serve all` reads those of all three services. A secret is never shown, not even in an error.

| variable | default | values | service | meaning |
|---|---|---|---|---|
{rows}

Read by the commands: {elsewhere}

OpenTelemetry's and PyTorch's own variables hold as well: `OTEL_*` ([metrics and traces](metrics.md)), and
`OMP_NUM_THREADS`, the threads of one forward pass.
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Show every TANDEM_* variable: its default, what it may be, which service reads it, and what it means."""

    service: Literal["all", "gateway", "retrieval", "ranking"] = "all"
    """Only what this one reads."""
    format: Literal["text", "markdown", "env"] = "text"
    """markdown makes docs/settings.md; env makes a file of defaults to fill in."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable, which several services may read, each with its own default."""

    name: str
    fields: Mapping[str, FieldInfo]

    @property
    def services(self) -> str:
        return "all" if len(self.fields) == len(SERVICES) else ", ".join(self.fields)

    @property
    def default(self) -> str:
        return self._each(_default)

    @property
    def values(self) -> str:
        return self._each(_values)

    @property
    def meaning(self) -> str:
        return self._each(lambda field: field.description or "")

    def _each(self, say: Callable[[FieldInfo], str]) -> str:
        """What they have in common, and after it what one service says otherwise."""
        said = {service: say(field) for service, field in self.fields.items()}
        (common, _), *_ = Counter(said.values()).most_common(1)
        apart = [f"{service}: {text.removeprefix(common).strip()}" for service, text in said.items() if text != common]
        return (" " if common.endswith(".") else "; ").join([common, *apart])


def run(args: Settings) -> None:
    chosen = [args.service] if args.service != "all" else list(SERVICES)
    print({"text": text, "markdown": markdown, "env": env}[args.format](variables(chosen)), end="")


def variables(services: Sequence[str] = tuple(SERVICES)) -> list[Variable]:
    """In the order of the classes."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for service in services:
        for name, field in SERVICES[service].model_fields.items():
            found.setdefault(PREFIX + name.upper(), {})[service] = field
    return [Variable(name, fields) for name, fields in found.items()]


def misspelt(names: Iterable[str]) -> list[str]:
    """What to say of variables with our prefix that nothing reads."""
    known = [variable.name for variable in variables()] + list(ELSEWHERE)
    unknown = sorted(name for name in names if name.startswith(PREFIX) and name not in known)
    near = {name: get_close_matches(name, known, n=1, cutoff=ALIKE) for name in unknown}
    return [
        f"{name} is read by nothing" + (f"; did you mean {near[name][0]}?" if near[name] else ".") + SHOW
        for name in unknown
    ]


def text(rows: Sequence[Variable]) -> str:
    blocks = (
        f"{row.name}\n    {row.meaning}\n    default: {row.default}"
        + (f"; values: {row.values}" if row.values else "")
        + f"; read by: {row.services}\n"
        for row in rows
    )
    return "\n".join(blocks)


def markdown(rows: Sequence[Variable]) -> str:
    lines = (
        f"| `{row.name}` | {row.default} | {row.values} | {row.services} | {row.meaning} |".replace("|  |", "| |")
        for row in sorted(rows, key=lambda row: row.services == "all")
    )
    elsewhere = " ".join(f"`{name}`: {meaning}" for name, meaning in ELSEWHERE.items())
    return PAGE.format(rows="\n".join(lines), elsewhere=elsewhere)


def env(rows: Sequence[Variable]) -> str:
    return "\n".join(f"# {row.meaning}\n# {row.name}={_plain(row)}\n" for row in rows)


def _plain(row: Variable) -> str:
    default = _default(next(iter(row.fields.values())))
    return "" if default in ("unset", "empty") else default


def _default(field: FieldInfo) -> str:
    value = field.get_default()
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == "":
        return "unset" if value is None else "empty"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(field: FieldInfo) -> str:
    choices = list(_choices(field.annotation))
    if choices:
        return ", ".join(choices)
    bounds = [
        words.format(f"{getattr(bound, name):,}")
        for kind, name, words in BOUNDS
        for bound in field.metadata
        if isinstance(bound, kind)
    ]
    lengths = [f"at least {one.min_length} characters" for one in field.metadata if isinstance(one, MinLen)]
    return " ".join(bounds + lengths)


def _choices(annotation: Any) -> Iterator[str]:
    if annotation is bool:
        yield from ("true", "false")
    for one in get_args(annotation):
        if isinstance(one, str):
            yield one
        else:
            yield from _choices(one)
