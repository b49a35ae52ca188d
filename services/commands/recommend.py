"""`tandem recommend`: one user's recommendations, here and now, without a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from shared.errors import BadInput

if TYPE_CHECKING:
    from shared.data.prepared import Prepared
    from shared.history import History


@dataclass(frozen=True, kw_only=True)
class Recommend:
    """Recommend for a user of the data folder, or for a history given by hand."""

    data: Path
    """The prepared data folder."""
    retriever: Path
    """The retriever's artifact."""
    ranker: Path | None = None
    """A ranker's artifact; without it the retriever's order is the answer."""
    user: str | None = None
    """A user id of the data folder."""
    history: str | None = None
    """Item ids, oldest first, with commas between."""
    k: Annotated[int, tyro.conf.arg(aliases=("-k",))] = 10
    """How many items."""
    backbone: str | None = None
    """Another place of the ranker's language model: a name or a folder."""
    device: str = "auto"
    """auto, cpu or cuda: where the language model runs."""


def run(args: Recommend) -> None:
    from services.loading import first_stage
    from shared.data.prepared import load
    from shared.wire.base import RERANKED

    if args.k < 1:
        raise BadInput(f"-k {args.k}: ask for at least 1 item")
    data = load(args.data)
    history = _history(args, data)
    loaded = first_stage(args.retriever, data.catalog, args.device, args.backbone)
    stage = loaded.retriever if history.items else loaded.popularity
    found = stage.retrieve([history], max(args.k, RERANKED), [list(history.items)])[0]
    if args.ranker and history.items:
        from ranker.registry import load as load_ranker

        made = load_ranker(args.ranker, data.catalog, args.backbone, args.device)
        made.self_test()
        ranker = made.ranker
        head, tail = found[: ranker.max_candidates], found[ranker.max_candidates :]
        found = [*ranker.rank([history], [head])[0].candidates, *tail]
    for place, candidate in enumerate(found[: args.k], start=1):
        item = data.catalog[candidate.item]
        print(f"{place:>3}  {candidate.score:>8.3f}  {item.id:<12} {item.title}")


def _history(args: Recommend, data: Prepared) -> History:
    from shared.history import History

    if (args.user is None) == (args.history is None):
        raise BadInput("give one of --user ID and --history ID,ID,...")
    if args.user is not None:
        return data.history(args.user)
    ids = [part.strip() for part in (args.history or "").split(",") if part.strip()]
    return History(tuple(data.catalog.index(item_id) for item_id in ids))
