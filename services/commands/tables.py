"""Metrics on a terminal, one system a row."""

from __future__ import annotations

from collections.abc import Mapping

from shared.metrics import CUTOFFS


def metrics_table(rows: Mapping[str, Mapping[str, float]], title: str) -> None:
    """rows: system -> {"recall@10": ...}. Plain text to stdout, so that it survives a pipe."""
    columns = [f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in CUTOFFS]
    wide = max(len(name) for name in rows)
    print(f"\n{title}")
    print(" " * wide + "".join(f"{column:>11}" for column in columns))
    for name, row in rows.items():
        print(f"{name:<{wide}}" + "".join(f"{row[column]:>11.4f}" for column in columns))
