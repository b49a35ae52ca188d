"""The trained retriever as it serves: encode the last window of each history, search the index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from retriever.batches import pad_left
from retriever.build import Report, build
from retriever.ensemble import Ensemble, encoder
from retriever.incremental import Incremental
from retriever.index import ItemIndex
from retriever.lrurec import LRURec, LRURecConfig
from retriever.popularity import Popularity, by_score
from retriever.states import States
from shared.artifact import Manifest, open_artifact
from shared.candidate import Candidate
from shared.catalog import Catalog
from shared.errors import BadArtifact
from shared.history import History
from shared.protocols import ServedRetriever

SHIPPED = Path(__file__).parent / "shipped"
Model = LRURec | Ensemble
WEIGHTS, POPULARITY = "lrurec.safetensors", "popularity.safetensors"
ENCODE_BATCH = 256


class LRURecRetriever:
    """An empty history encodes to the model's resting state: ask Popularity for such users instead."""

    def __init__(self, model: Model, index: ItemIndex, window: int) -> None:
        self.model = model.eval()
        self.index = index
        self.window = window
        self._incremental: tuple[Incremental, States] | None = None

    def remember(self, states: States) -> None:
        """From now on histories are encoded from what is kept of them; the weights must stay as they are."""
        self._incremental = encoder(self.model), states

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        return self.index.search(self.encode([h.items for h in histories]), k, exclude)

    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[list[Candidate]]:
        users_BD = self.encode([h.items for h in histories])
        return [self._scored(user_D, given) for user_D, given in zip(users_BD, items, strict=True)]

    def _scored(self, user_D: np.ndarray, items: Sequence[int]) -> list[Candidate]:
        rows_ND = self.index.rows(items)
        scores_N = rows_ND[:, :-1] @ user_D + rows_ND[:, -1]
        return by_score(items, scores_N)

    def vectors(self, items: Sequence[int]) -> np.ndarray:
        vectors_ND = self.index.rows(items)[:, :-1]
        lengths_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return vectors_ND / np.maximum(lengths_N, 1e-12)

    @torch.inference_mode()
    def encode(self, sequences: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
        """The user vector B x D after the last item, float32."""
        if self._incremental is not None:
            encoder, states = self._incremental
            return encoder.encode([np.asarray(items[-self.window :], dtype=np.int64) for items in sequences], states)
        hidden = [np.zeros((0, self.model.config.width), dtype=np.float32)]
        for start in range(0, len(sequences), ENCODE_BATCH):
            items_BL = pad_left(sequences[start : start + ENCODE_BATCH], self.window)
            hidden.append(self.model.last(items_BL).numpy())
        return np.concatenate(hidden)


@dataclass(frozen=True, slots=True)
class LoadedRetriever:
    manifest: Manifest
    retriever: LRURecRetriever
    popularity: ServedRetriever


def build_index(model: Model) -> ItemIndex:
    """Exact, for any number of items."""
    return ItemIndex.build(*_table(model))


def serving_index(model: Model, users_BD: np.ndarray) -> tuple[ItemIndex, Report]:
    """The kind that this many items need, its recall measured for these users."""
    return build(*_table(model), users_BD)


def _table(model: Model) -> tuple[np.ndarray, np.ndarray]:
    return model.item_VD.detach().numpy()[1:], model.bias_V.detach().numpy()[1:]


def weights_file(member: int) -> str:
    """Of an ensemble's; a model alone is the first."""
    return WEIGHTS if member == 0 else f"lrurec-{member + 1}.safetensors"


def load(folder: Path, catalog: Catalog) -> LoadedRetriever:
    """Raises BadArtifact or one of its kinds; whatever loads is whole and made for this catalogue."""
    manifest = open_artifact(folder, "retriever", methods=("lrurec",))
    catalog.require(manifest.catalog_fingerprint, f"the retriever in {folder}")
    config = LRURecConfig(**manifest.config["model"])
    members = [_member(folder / weights_file(n), config) for n in range(manifest.config.get("members", 1))]
    model = members[0] if len(members) == 1 else Ensemble(members)
    index = ItemIndex.load(folder, config.items)
    _self_test(model, index, folder)
    counts = load_file(folder / POPULARITY)["counts"].numpy()
    retriever = LRURecRetriever(model, index, manifest.config["train"]["window"])
    return LoadedRetriever(manifest, retriever, Popularity(counts))


def _member(file: Path, config: LRURecConfig) -> LRURec:
    model = LRURec(config)
    try:
        model.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise BadArtifact(f"{file} does not fit the manifest's config: {error}") from None
    return model


def _self_test(model: Model, index: ItemIndex, folder: Path) -> None:
    """The index and the weights agree on one query: an index of other weights would answer nonsense in silence.

    The best score must be the model's best, and the model's own for the item that the index names: the second
    finds the right rows in a wrong order.
    """
    query_D = torch.ones(1, model.config.width)
    best = index.search(query_D.numpy(), 1)[0][0]
    scores_V = model.scores(query_D)[0].detach()
    for expected in (float(scores_V[1:].max()), float(scores_V[best.item])):
        if abs(best.score - expected) > 1e-3 * max(1.0, abs(expected)):
            raise BadArtifact(
                f"{folder}: the index's best score is {best.score:.4f}, the model's {expected:.4f}: "
                "they are not of one training. Train it anew."
            )
