"""Tiny source files, made where a test needs them."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from shared.data.prepare import Report, prepare
from shared.data.prepared import Prepared, load
from shared.data.source import Source
from shared.data.table import Columns, table

EVENTS = [("u1", "a", 3), ("u2", "b", 1), ("u1", "b", 1), ("u2", "a", 2), ("u1", "c", 2), ("u2", "c", 2)]
ITEMS = [("c", "Casino (1995)"), ("a", "Alien (1979)"), ("b", "Brazil (1985)")]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def csv(header: str, rows: Iterable[Sequence[object]]) -> str:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def small_folder(folder: Path) -> Path:
    write(folder / "interactions.csv", csv("user_id,item_id,timestamp", EVENTS))
    write(folder / "items.csv", csv("item_id,title", ITEMS))
    return folder


def prepare_table(path: Path, out: Path, items: Path | None = None, **options: object) -> tuple[Report, Prepared]:
    """With no k-core unless asked for, so that nothing of a tiny file is lost."""
    columns = Columns(**{k: options.pop(k) for k in list(options) if k in Columns.__dataclass_fields__})  # type: ignore[arg-type]
    on_error = options.get("on_error", "fail")

    def read(work: Path) -> Source:
        return table(path, items, columns, work, on_error)  # type: ignore[arg-type]

    report = prepare("table", read, out, **({"min_user": 0, "min_item": 0} | options))  # type: ignore[arg-type]
    return report, load(out)


def sequences(data: Prepared) -> dict[str, list[str]]:
    """user id -> item ids, oldest first."""
    return {
        user_id: [data.catalog[int(item)].id for item in data.sequence(user)]
        for user, user_id in enumerate(data.user_ids)
    }


def frame(rows: Iterable[Sequence[object]], names: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=list(names), orient="row")
