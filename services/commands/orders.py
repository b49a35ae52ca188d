"""One user's candidates under several rankers, side by side: the place as served, and the language model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.loading import SERVED_AS

if TYPE_CHECKING:
    from shared.candidate import Candidate
    from shared.data.prepared import Prepared
    from shared.history import History

TITLE = 36


@dataclass(frozen=True, slots=True)
class Column:
    """A ranker. own: item id -> the place that the language model alone gives it, from 1."""

    name: str
    blend: float
    gain: Mapping[str, float]
    """Of NDCG@10 on the validation users, where the blend was fitted."""
    own: Mapping[str, int]


def columns(
    folders: Sequence[Path], data: Prepared, history: History, candidates: Sequence[Candidate], device: str = "auto"
) -> list[Column]:
    """Each ranker asked without its blend, over one backbone in memory. Raises BadArtifact."""
    from ranker.backbone import Pool
    from ranker.llamarec.rank import LlamaRecRanker
    from ranker.opinion import BlendedRanker
    from ranker.registry import load

    pool, found = Pool(device), []
    for folder in folders:
        loaded = load(folder, data.catalog, device=device, pool=pool)
        ranker, manifest = loaded.ranker, loaded.manifest
        assert isinstance(ranker, LlamaRecRanker | BlendedRanker)
        blend, ranker.weight = ranker.weight, 1.0
        [ranking] = ranker.rank([history], [list(candidates)])
        own = {data.catalog[c.item].id: place for place, c in enumerate(ranking.candidates, start=1)}
        method = SERVED_AS.get(manifest.method, manifest.method)
        found.append(Column(method, blend, manifest.metrics.get("blend_gain", {}), own))
    return found


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
            f"{served[ranker.name].get(one, 0) or '-':>4} {'(' + str(ranker.own[one]) + ')':>5}" for ranker in rankers
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
