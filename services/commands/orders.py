"""One user's candidates under several rankers, side by side: the place as served, and the language model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.loading import SERVED_AS
from shared.artifact import open_artifact

if TYPE_CHECKING:
    from shared.data.prepared import Prepared

TITLE = 36


@dataclass(frozen=True, slots=True)
class Column:
    """A ranker. own: item id -> the place that the language model alone gives it, from 1."""

    name: str
    blend: float
    gain: Mapping[str, float]
    """Of NDCG@10 on the validation users, where the blend was fitted."""
    own: Mapping[str, int]


def columns(folders: Sequence[Path], ranked: Mapping[str, Mapping[str, Any]]) -> list[Column]:
    """ranked: answers of POST /recommend with `include: ["scores"]`, by ranker. Raises BadArtifact."""
    found = []
    for folder in folders:
        manifest = open_artifact(folder, "ranker")
        name = SERVED_AS.get(manifest.method, manifest.method)
        gain = manifest.metrics.get("blend_gain", {})
        found.append(Column(name, manifest.extra["blend"], gain, _own(ranked[name])))
    return found


def _own(answer: Mapping[str, Any]) -> dict[str, int]:
    """Nothing where the language model had no part in the answer. A tie keeps the order as served."""
    scored = [item for item in answer["items"] if "ranker_score" in item]
    by_score = sorted(scored, key=lambda item: -item["ranker_score"])
    return {item["item_id"]: place for place, item in enumerate(by_score, start=1)}


def table(
    data: Prepared, retrieved: Mapping[str, Any], ranked: Mapping[str, Mapping[str, Any]], rankers: Sequence[Column]
) -> list[str]:
    """retrieved, ranked: answers of POST /recommend, by ranker. Lines of text."""
    served = {name: {item["item_id"]: item["rank"] for item in answer["items"]} for name, answer in ranked.items()}
    head = f"{'retrieved':>9}  {'':<{TITLE}}" + "".join(f"{ranker.name:>10}" for ranker in rankers)
    lines = [head]
    for item in retrieved["items"]:
        one = item["item_id"]
        cells = "".join(
            f"{served[ranker.name].get(one, '-'):>4} {'(' + str(ranker.own.get(one, '-')) + ')':>5}"
            for ranker in rankers
        )
        lines.append(f"{item['rank']:>9}  {_title(data, one):<{TITLE}}{cells}")
    return lines


def said(rankers: Sequence[Column]) -> list[str]:
    """What each ranker's blend weight means, a line each."""
    return [f"{ranker.name:>10}  {_say(ranker)}" for ranker in rankers]


def _say(ranker: Column) -> str:
    if not ranker.blend:
        return "blend 0.00: it added nothing to the retriever on validation users, so the retriever's order stands"
    gain = ranker.gain
    within = f", {gain['mean']:+.4f} NDCG@10 on validation users, 95 % {gain['low']:+.4f} to {gain['high']:+.4f}"
    return f"blend {ranker.blend:.2f}{within if gain else ''}"


def _title(data: Prepared, item_id: str) -> str:
    title = data.catalog[data.catalog.index(item_id)].title
    return title if len(title) <= TITLE - 1 else title[: TITLE - 2] + "…"
