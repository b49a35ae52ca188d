"""One protocol for every system: held-out last items ranked against the whole catalogue, on the same users.

LlamaRec's (section 4.1): leave-one-out, test input = training and validation items, users whose truth the retriever
missed count 0. Per-user means. Everything is paired by user against the retriever.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ranker.blend import blend, fit, log_softmax, truth_ranks
from ranker.evaluate import CANDIDATES, Questions, ask, questions, require_held_out, spread
from ranker.llamarec.likeness import opinion
from ranker.llamarec.rank import LlamaRecRanker
from ranker.opinion import BlendedRanker
from ranker.registry import LoadedRanker, heard
from ranker.sensitivity import order_sensitivity
from retriever.evaluate import excluded, ranks, retrieved
from retriever.popularity import count
from retriever.retrieve import LoadedRetriever
from shared import metrics
from shared.artifact import open_artifact, trained_elsewhere
from shared.data.prepared import Prepared
from shared.data.split import Case, cases, spaced, train_sequence
from shared.wire.base import RERANKED

Exclusion = Literal["window", "history"]
EXCLUSIONS: tuple[Exclusion, ...] = ("window", "history")
RETRIEVER = "lrurec"
ACTIVITY = (5, 10, 20, 50, 100)
"""Upper ends of the bands of history length, in items; the last band is open."""
RELIABILITY_BINS = 10


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the first stage found for every test user. ranks: system -> the truth's place, 0 where missed."""

    cases: list[Case]
    ranks: dict[str, np.ndarray]
    items_UC: np.ndarray
    scores_UC: np.ndarray


def retrieve(data: Prepared, loaded: LoadedRetriever, exclusion: Exclusion, users: int = 0) -> Retrieved:
    """users: at most this many, evenly spaced; 0 for all."""
    everyone = list(cases(data, "test"))
    asked = [everyone[place] for place in spaced(len(everyone), users)]
    window = loaded.retriever.window
    popular_UC, _ = retrieved(loaded.popularity, asked, RERANKED, exclusion, window, f"popularity, {exclusion}")
    items_UC, scores_UC = retrieved(loaded.retriever, asked, RERANKED, exclusion, window, f"lrurec, {exclusion}")
    found = {"popularity": ranks(popular_UC, asked), RETRIEVER: ranks(items_UC, asked)}
    return Retrieved(asked, found, items_UC, scores_UC)


@dataclass(frozen=True, slots=True)
class Reranked:
    """What the language model said. logits_UC: in retriever order. behind_U: the truth's place where it stands behind
    the candidates that the ranker takes, and stays there; 0 for the others."""

    asked: Questions
    logits_UC: np.ndarray
    mass_U: np.ndarray
    behind_U: np.ndarray
    weight: float
    method: str = "llamarec"

    @property
    def ranks(self) -> dict[str, np.ndarray]:
        return {
            f"{self.method} alone": truth_ranks(self.logits_UC, self.asked.truth_U) + self.behind_U,
            f"{self.method} blend": truth_ranks(self.blended_UC, self.asked.truth_U) + self.behind_U,
        }

    @property
    def blended_UC(self) -> np.ndarray:
        return blend(self.asked.scores_UC, self.logits_UC, self.weight)


def rerank(
    ranker: LlamaRecRanker | BlendedRanker, stage: Retrieved, method: str = "llamarec", users: Sequence[str] = ()
) -> Reranked:
    """users: all user ids, for a ranker that knows them."""
    width = min(CANDIDATES, ranker.max_candidates)
    asked = questions(stage.cases, stage.items_UC[:, :width], stage.scores_UC[:, :width], users)
    logits_UC, mass_U = heard(ranker, asked, method)
    places_U = stage.ranks[RETRIEVER]
    return Reranked(asked, logits_UC, mass_U, np.where(places_U > width, places_U, 0), ranker.weight, method)


def alike(
    data: Prepared, retriever: LoadedRetriever, ranker: LlamaRecRanker, config: Mapping[str, Any], reranked: Reranked
) -> dict[str, np.ndarray]:
    """What a LlamaRec's teacher reaches without a language model: likeness of titles, its own blend fitted likewise."""
    heard = spread(list(cases(data, "valid")), config["blend_users"])
    valid, sharpness = ask(retriever.retriever, heard, config["candidates"]), config["alike_sharpness"]
    fitted = fit(valid.scores_UC, opinion(valid, ranker.builder, sharpness), valid.truth_U, config["seed"])
    logits_UC = opinion(reranked.asked, ranker.builder, sharpness)
    return replace(reranked, logits_UC=logits_UC, weight=fitted.weight, method="titles").ranks


def report(
    data: Prepared,
    retriever: LoadedRetriever,
    ranker: LoadedRanker | None,
    *,
    seed: int,
    users: int = 0,
    order_users: int = 200,
    baselines: Sequence[str] = (),
    lists: Mapping[str, Mapping[int, np.ndarray]] | None = None,
) -> dict[str, Any]:
    """Everything but wall time and hardware. The ranker's rows are under the visible-window exclusion, as published.

    lists: what other systems made, per user best first; a user without a list counts 0.
    """
    stages = {exclusion: retrieve(data, retriever, exclusion, users) for exclusion in EXCLUSIONS}
    stage = stages["window"]
    rerankers: dict[str, np.ndarray] = {}
    window = retriever.retriever.window
    others = {name: _listed(stage.cases, given, window) for name, given in (lists or {}).items()}
    found = others | _baselines(data, stage.cases, baselines, window, seed) | stage.ranks
    answer: dict[str, Any] = {
        "protocol": "llamarec",
        "data": {"name": data.manifest.method, "digest": data.digest, **data.manifest.metrics},
        "catalog": data.catalog.fingerprint(),
        "users": len(stage.cases),
        "users_who_repeat": sum(case.truth in case.history for case in stage.cases),
        "seed": seed,
        "retriever": _artifact(retriever),
    }
    if ranker:
        assert isinstance(ranker.ranker, LlamaRecRanker | BlendedRanker)
        reranked = rerank(ranker.ranker, stage, ranker.manifest.method, data.user_ids)
        rerankers = reranked.ranks
        answer["ranker"] = _artifact(ranker) | _opinion(reranked)
        if isinstance(ranker.ranker, LlamaRecRanker):
            if ranker.manifest.config.get("alike") or ranker.manifest.config.get("alike_prompts"):
                rerankers |= alike(data, retriever, ranker.ranker, ranker.manifest.config, reranked)
            if order_users:
                engine, builder = ranker.ranker.engine, ranker.ranker.builder
                orders = order_sensitivity(engine, builder, reranked.asked, seed, order_users)
                answer["order_sensitivity"] = [asdict(order) for order in orders]
    found |= rerankers
    hit_U = found[RETRIEVER] > 0
    answer |= {
        "rows": {name: metrics.table(ranks_U) for name, ranks_U in found.items()},
        "intervals": {name: intervals(ranks_U, seed) for name, ranks_U in found.items()},
        "rows_history_excluded": {n: metrics.table(r) for n, r in stages["history"].ranks.items()},
        "users_where_retrieved": int(hit_U.sum()),
        "rows_where_retrieved": {
            n: metrics.table(r[hit_U]) for n, r in found.items() if n == RETRIEVER or n in rerankers
        },
        "against_retriever": against({n: r for n, r in found.items() if n in rerankers or n == RETRIEVER}, seed),
        "bands": bands(data, stage.cases, found),
    }
    return answer


def _baselines(
    data: Prepared, asked: list[Case], names: Sequence[str], window: int, seed: int
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    if not names:
        return found
    from retriever.baselines import fit

    sequences = [train_sequence(s) for s in data.sequences()]
    for name in names:
        fitted = fit(name, sequences, len(data.catalog), seed)
        items_UC, _ = retrieved(fitted, asked, RERANKED, "window", window, name)
        found[name] = ranks(items_UC, asked)
    return found


def _listed(asked: Sequence[Case], lists: Mapping[int, np.ndarray], window: int) -> np.ndarray:
    """Ranks of the truths in lists out of which the visible window is taken."""
    ranks_U = np.zeros(len(asked), dtype=int)
    for row, case in enumerate(asked):
        items = lists.get(case.user, np.empty(0, dtype=np.int32))
        left = items[~np.isin(items, excluded(case, "window", window))]
        ranks_U[row] = metrics.rank_of(case.truth, left[:RERANKED].tolist())
    return ranks_U


def against(found: Mapping[str, np.ndarray], seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """system -> metric -> paired difference to the retriever."""
    measures = {"recall": metrics.recall, "ndcg": metrics.ndcg, "mrr": metrics.mrr}
    return {
        name: {
            f"{m}@{k}": asdict(metrics.paired(f(ranks_U, k), f(found[RETRIEVER], k), seed))
            for m, f in measures.items()
            for k in (5, 10)
        }
        for name, ranks_U in found.items()
        if name != RETRIEVER
    }


def intervals(ranks_U: np.ndarray, seed: int) -> dict[str, list[float]]:
    """Low and high, 95 %, by bootstrap over users."""
    nothing_U = np.zeros(len(ranks_U))
    values = {"recall@10": metrics.recall(ranks_U, 10), "ndcg@10": metrics.ndcg(ranks_U, 10)}
    found = {name: metrics.paired(value_U, nothing_U, seed, 2_000) for name, value_U in values.items()}
    return {name: [one.low, one.high] for name, one in found.items()}


def bands(data: Prepared, asked: Sequence[Case], found: Mapping[str, np.ndarray]) -> dict[str, list[dict[str, Any]]]:
    """NDCG@10 and Recall@10 by the user's activity and by the truth's popularity (thirds of all training events)."""
    length_U = np.array([len(case.history) for case in asked])
    edges = np.array(ACTIVITY)
    activity = [f"up to {ACTIVITY[0]}", *(f"{a + 1} to {b}" for a, b in pairwise(ACTIVITY))]
    activity.append(f"more than {ACTIVITY[-1]}")
    truth_U = np.array([case.truth for case in asked])
    return {
        "activity": _banded(np.searchsorted(edges, length_U), activity, found),
        "popularity": _banded(popularity_third(data)[truth_U], ["tail", "middle", "head"], found),
    }


def popularity_third(data: Prepared) -> np.ndarray:
    """Per dense index 0, 1 or 2: each third holds a third of the training events, the head the fewest items."""
    counts_V = count((train_sequence(s) for s in data.sequences()), len(data.catalog))
    order = np.argsort(counts_V, kind="stable")
    share = np.cumsum(counts_V[order]) / max(1, counts_V.sum())
    third_V = np.zeros(len(counts_V), dtype=np.int64)
    third_V[order] = np.minimum(2, (share * 3 - 1e-9).astype(np.int64))
    return third_V


def _banded(band_U: np.ndarray, names: Sequence[str], found: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    rows = []
    for band, name in enumerate(names):
        here_U = band_U == band
        if here_U.any():
            values = {system: metrics.table(ranks_U[here_U], (10,)) for system, ranks_U in found.items()}
            rows.append({"band": name, "users": int(here_U.sum()), "systems": values})
    return rows


def _artifact(loaded: LoadedRetriever | LoadedRanker) -> dict[str, Any]:
    manifest = loaded.manifest
    return {
        "name": manifest.name,
        "config": manifest.config,
        "seed": manifest.seed,
        "metrics": manifest.metrics,
        "data_digest": manifest.data_digest,
    }


def _opinion(reranked: Reranked) -> dict[str, Any]:
    """How sure the model is, how right it is when it is sure, and how far the blend moves candidates."""
    heard = ~np.isnan(reranked.mass_U)
    log_UC = log_softmax(reranked.logits_UC[heard])
    p_UC = np.exp(log_UC)
    entropy_U = -(p_UC * np.where(p_UC > 0, log_UC, 0)).sum(1)
    places = np.arange(reranked.logits_UC.shape[1])
    after_UC = np.argsort(np.argsort(-reranked.blended_UC[heard], axis=1, kind="stable"), axis=1)
    moved, counts = np.unique(places - after_UC, return_counts=True)
    return {
        "blend": reranked.weight,
        "label_mass": float(reranked.mass_U[heard].mean()) if heard.any() else float("nan"),
        "entropy": float(entropy_U.mean()) if heard.any() else float("nan"),
        "movement": dict(zip(map(str, moved.tolist()), counts.tolist(), strict=True)),
        "reliability": reliability(p_UC, reranked.asked.truth_U[heard]),
    }


def reliability(p_UC: np.ndarray, truth_U: np.ndarray) -> list[dict[str, float]]:
    """Label probabilities in bins: what the model said, how often it was so, over how many labels."""
    right_UC = np.arange(p_UC.shape[1]) == truth_U[:, None]
    bin_UC = np.minimum((p_UC * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    return [
        {"said": float(p_UC[here].mean()), "was": float(right_UC[here].mean()), "labels": int(here.sum())}
        for here in (bin_UC == b for b in range(RELIABILITY_BINS))
        if here.any()
    ]


def load_both(
    data: Prepared, retriever: Path, ranker: Path | None, backbone: str | None, device: str
) -> tuple[LoadedRetriever, LoadedRanker | None]:
    """Raises BadArtifact, or BadInput for a ranker that has seen what is held out; the ranker has reproduced its golden
    score."""
    from ranker.registry import load as load_ranker
    from retriever.retrieve import load as load_retriever

    first = load_retriever(retriever, data.catalog)
    _warn(trained_elsewhere(first.manifest, data.digest))
    if ranker is None:
        return first, None
    require_held_out(open_artifact(ranker, "ranker"))
    second = load_ranker(ranker, data.catalog, backbone, device)
    second.self_test()
    _warn(trained_elsewhere(second.manifest, data.digest))
    return first, second


def _warn(said: str) -> None:
    if said:
        print(f"note: {said}", file=sys.stderr)
