"""Amazon reviews as released in 2014: ratings as CSV without a header, item metadata as lines of JSON.

Most of the 2014 metadata files hold Python literals instead of JSON; both are read.
"""

from __future__ import annotations

import ast
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from shared.data.delimited import delimited_rows
from shared.data.rows import OnError
from shared.data.source import Source, item_table
from shared.data.watched import watched
from shared.errors import BadInput, BadRow

COLUMNS = ("user", "item", "rating", "timestamp")


def amazon(path: Path, items: Path | None, work: Path, on_error: OnError) -> Source:
    """path: the ratings file, with `items` its metadata; or a folder that holds one of each."""
    if path.is_dir():
        ratings = _only(path, ("*.csv", "*.csv.gz"), "ratings")
        items = items or _only(path, ("*.json", "*.json.gz", "*.jsonl", "*.jsonl.gz"), "metadata")
    else:
        ratings = path
    if items is None:
        raise BadInput(f"{path} holds no titles. Give the metadata file too: --items meta_....json.gz.")
    notes = {"skipped_item_rows": 0}
    return Source(
        events=delimited_rows(ratings, work, on_error, columns=COLUMNS),
        user="user",
        item="item",
        time="timestamp",
        items=item_table(_metadata(items, on_error, notes)),
        config={"files": [ratings.name, items.name]},
        notes=notes,
    )


def _only(folder: Path, patterns: tuple[str, ...], what: str) -> Path:
    found = sorted(file for pattern in patterns for file in folder.glob(pattern))
    if len(found) != 1:
        raise BadInput(
            f"{folder} holds {len(found)} {what} files ({', '.join(patterns)}), not 1: "
            f"{', '.join(file.name for file in found[:5]) or 'none'}. Give the ratings file as --source and the "
            "metadata file as --items."
        )
    return found[0]


def _metadata(path: Path, on_error: OnError, notes: dict[str, int]) -> Iterator[tuple[str, str, list[str]]]:
    """(asin, title, categories) of each line; the title is empty where there is none."""
    if not path.is_file():
        raise BadInput(f"{path} is no file. Give the metadata file as --items.")
    with (
        watched(path, "read") as raw,
        gzip.open(raw) if path.suffix == ".gz" else nullcontext(raw) as stream,
        io.TextIOWrapper(stream, encoding="utf-8", errors="replace") as lines,
    ):
        try:
            for line, text in enumerate(lines, start=1):
                try:
                    if text.strip():
                        yield _fields(_parse(text), path, line)
                except BadRow:
                    if on_error == "fail":
                        raise
                    notes["skipped_item_rows"] += 1
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadInput(f"{path} is not a whole gzip file: {error}. Download it again.") from error


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _fields(record: object, path: Path, line: int) -> tuple[str, str, list[str]]:
    if not isinstance(record, dict):
        raise BadRow(str(path), line, "(the whole row)", record, "is neither a JSON object nor a Python one")
    asin, title = record.get("asin"), record.get("title")
    if not isinstance(asin, str) or not asin:
        raise BadRow(str(path), line, "asin", asin, "is no id")
    names = _flat(record.get("categories") or record.get("category"))
    return asin, title if isinstance(title, str) else "", names


def _flat(value: Any) -> list[str]:
    """2014 has a list of paths, [["Beauty", "Skin Care"], ...]; a plain list or one name will do."""
    if isinstance(value, str):
        return [value]
    return [name for part in value for name in _flat(part)] if isinstance(value, list) else []
