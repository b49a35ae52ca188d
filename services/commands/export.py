"""`tandem export embeddings`: what CLLM4Rec learnt of users and items, as features for another model (CLLM4Rec-Emb)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BadInput

VECTORS, IDS = "vectors.safetensors", "ids.json"


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Write the vectors of users and items of a cllm4rec artifact, float32, in the order of the ids beside them."""

    data: Path
    """The prepared data folder that it was trained on."""
    ranker: Path
    """The artifact of `tandem train ranker --method cllm4rec`."""
    out: Path
    """A new folder: vectors.safetensors (users, items) and ids.json (users, items)."""
    states: bool = False
    """Also each user's vector out of the language model, for the whole history, as `states`: its products with the
    items are RecLLM's scores, so that both are towers as they stand. One short pass per user."""
    device: str = "auto"
    """auto, cpu or cuda: where the language model runs."""


def run(args: Embeddings) -> None:
    import torch
    from safetensors.torch import save_file

    from ranker.cllm4rec.rank import RecLLMScorer
    from ranker.opinion import BlendedRanker
    from ranker.registry import load as load_ranker
    from shared.artifact import open_artifact, write_text, writing
    from shared.data.prepared import load

    if args.out.exists():
        raise BadInput(f"{args.out} exists. Name a new folder, or remove this one.")
    data = load(args.data)
    open_artifact(args.ranker, "ranker", methods=("cllm4rec",))
    loaded = load_ranker(args.ranker, data.catalog, device=args.device)
    loaded.self_test()
    assert isinstance(loaded.ranker, BlendedRanker)
    scorer = loaded.ranker.scorer
    assert isinstance(scorer, RecLLMScorer)
    users = sorted(scorer.users, key=lambda user: scorer.users[user])
    table_SD = scorer.model.embeddings.collaborative_SD.detach().float().cpu()
    vectors = {"users": table_SD[: len(users)].clone(), "items": table_SD[len(users) :].clone()}
    if args.states:
        vectors["states"] = torch.from_numpy(scorer.encode([data.history(user) for user in users]))
    with writing(args.out) as draft:
        save_file(vectors, draft / VECTORS)
        write_text(draft / IDS, json.dumps({"users": users, "items": [item.id for item in data.catalog.items]}))
    shapes = ", ".join(f"{len(vectors[name])} {name}" for name in vectors)
    print(f"written: {args.out} ({loaded.manifest.name}): {shapes}, {table_SD.shape[1]} wide")
