"""Files of JSON objects, one a line, as Rows."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import polars as pl

from shared.data.rows import LINE, ROW, Rows, lines, unpack
from shared.errors import BadInput

_FIRST = 100


def json_rows(path: Path, work: Path) -> Rows:
    """Columns are the keys of the first 100 lines. Numbers and lists become their JSON text.

    A key that a line lacks, and every key of a line that is no JSON object, is null. Bytes that are no UTF-8
    become U+FFFD, which no id may hold.
    """
    plain = unpack(path, work)
    names = tuple(_keys(path, plain))
    for name in names:
        if "'" in name or "\\" in name:
            raise BadInput(f"{path}: the key {name!r} holds a quote or a backslash. Rename it.")
    text = lines(plain, lossy=True).filter(pl.col(LINE).str.strip_chars() != "")
    values = [pl.col(LINE).str.json_path_match(f"$['{name}']").alias(name) for name in names]
    return Rows(path, names, text.select(ROW, *values), lambda row: (row + 1, _fault(plain, row)))


def _fault(plain: Path, row: int) -> str:
    with plain.open(encoding="utf-8-sig", errors="replace") as file:
        text = next(islice(file, row, None))
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        return "is no JSON"
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    return "" if isinstance(value, dict) else "is no JSON object"


def _keys(path: Path, plain: Path) -> list[str]:
    keys: dict[str, None] = {}
    with plain.open(encoding="utf-8-sig", errors="replace") as file:
        for text in islice(file, _FIRST):
            try:
                value = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(value, dict):
                keys.update(dict.fromkeys(value))
    if not keys:
        raise BadInput(f"{path} holds no JSON object in its first {_FIRST} lines: it is no file of JSON lines.")
    return list(keys)
