"""`tandem data prepare`: a dataset becomes a folder that every other command reads."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from shared.data.source import Source


from shared.errors import BadInput


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepare:
    """Read a dataset, drop what cannot be learnt from, order it, and write Parquet and a manifest."""

    dataset: Literal["ml-100k", "ml-latest-small", "amazon", "table"]
    """ml-100k downloads itself; ml-latest-small: GroupLens's folder or zip; amazon: 2014 ratings CSV and meta
    JSON lines; table: your own CSV, Parquet or JSON lines."""
    out: Path
    """The prepared folder. What stands there is replaced once the new one is complete."""
    source: Path | None = None
    """A file or folder; not needed for ml-100k."""
    items: Path | None = None
    """The file of titles, where it is not beside the interactions (amazon, table)."""
    min_user: int = 5
    """Events that a user must have, after filtering. 0 or 1: any."""
    min_item: int = 5
    """Events that an item must have, after filtering. 0 or 1: any."""
    on_error: Literal["fail", "skip"] = "fail"
    """What a row that cannot be read does: end the command naming its line, or be left out and counted."""
    user: str = "user_id"
    """Column of user ids (table)."""
    item: str = "item_id"
    """Column of item ids (table)."""
    time: str | None = None
    """Column that orders a user's events, numbers in any unit (table). Default: timestamp, else position."""
    title: str = "title"
    """Column of titles, in the item file or in the interactions (table)."""
    category: str | None = None
    """Column of categories: a list, or text separated by | (table). Default: categories or category, if any."""


def run(args: Prepare) -> None:
    """Prints the counts before and after filtering to stdout."""
    from shared.data.movielens import TERMS
    from shared.data.prepare import prepare

    for name in ("min_user", "min_item"):
        if getattr(args, name) < 0:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(args, name)}: 0 or more")
    if terms := TERMS.get(args.dataset):
        print(terms, file=sys.stderr)
    report = prepare(
        args.dataset,
        lambda work: _open(args, work),
        args.out,
        min_user=args.min_user,
        min_item=args.min_item,
        on_error=args.on_error,
    )
    print(f"before filtering: {report.before}")
    print(f"after filtering:  {report.after}")
    if report.skipped:
        print(f"skipped:          {report.skipped:,} rows that cannot be read")
    print(f"written:          {args.out} ({report.manifest.name})")


def _open(args: Prepare, work: Path) -> Source:
    from shared.data.amazon import amazon
    from shared.data.movielens import grouplens, ml_100k
    from shared.data.table import Columns, table

    if args.dataset == "ml-100k":
        if args.source is not None:
            raise BadInput("--dataset ml-100k is downloaded and takes no --source; your own files are a table.")
        return ml_100k(work, args.on_error)
    if args.source is None:
        raise BadInput(f"--dataset {args.dataset} needs --source: the file or folder that holds it.")
    if args.dataset == "ml-latest-small":
        return grouplens(args.source, work, args.on_error)
    if args.dataset == "amazon":
        return amazon(args.source, args.items, work, args.on_error)
    columns = Columns(user=args.user, item=args.item, time=args.time, title=args.title, category=args.category)
    return table(args.source, args.items, columns, work, args.on_error)
