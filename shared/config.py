"""`--set key=value` over a recipe's frozen config: the only way that a run departs from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from shared.errors import BadInput

Config = TypeVar("Config")


def override(config: Config, overrides: Mapping[str, str]) -> Config:
    """Values take the type of the field they replace. Raises BadInput for an unknown field or a bad value."""
    known = {field.name for field in fields(config)}  # type: ignore[arg-type]
    hints = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for key, text in overrides.items():
        if key not in known:
            raise BadInput(f"--set {key}={text}: no such field; there are {', '.join(sorted(known))}")
        choices = get_args(hints[key]) if get_origin(hints[key]) is Literal else ()
        if choices and text not in choices:
            raise BadInput(f"--set {key}={text}: one of {', '.join(choices)}")
        changes[key] = _parse(key, text, getattr(config, key))
    return replace(config, **changes)  # type: ignore[type-var]


def from_recipe(
    method: str, recipes: Mapping[str, Callable[[], Config]], recipe: str, overrides: Mapping[str, str]
) -> Config:
    """A recipe with its overrides. Raises BadInput as `override` does, and for an unknown recipe."""
    if recipe not in recipes:
        raise BadInput(f"recipe {recipe!r} is unknown for {method}; there are {', '.join(recipes)}")
    return override(recipes[recipe](), overrides)


def at_least(least: int, config: object, *names: str) -> None:
    """Raises BadInput for the first field below."""
    for name in names:
        if getattr(config, name) < least:
            raise BadInput(f"{name}={getattr(config, name)}: {least} or more")


def shares(config: object, *names: str) -> None:
    """Raises BadInput for the first field that is not within 0 and 1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise BadInput(f"{name}={getattr(config, name)}: a share, 0 to 1")


def _parse(key: str, text: str, old: Any) -> object:
    if isinstance(old, bool):
        if text.lower() not in ("true", "false"):
            raise BadInput(f"--set {key}={text}: say true or false")
        return text.lower() == "true"
    if isinstance(old, tuple):
        return tuple(_parse(key, part, old[0] if old else "") for part in text.split(",") if part)
    try:
        value = type(old)(text)
    except (TypeError, ValueError):
        raise BadInput(f"--set {key}={text}: {text!r} is no {type(old).__name__}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"--set {key}={text}: a number that ends")
    return value
