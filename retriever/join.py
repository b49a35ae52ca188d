"""From trained LRURecs to the artifact of an ensemble of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from retriever.ensemble import Ensemble
from retriever.lrurec import LRURec
from retriever.retrieve import POPULARITY, LoadedRetriever, load, weights_file
from retriever.train import index_of, recall_at_10, sample
from shared.artifact import Manifest, package_versions, seal, writing
from shared.data.prepared import Prepared
from shared.data.split import cases
from shared.errors import BadInput

SUMS = ("steps", "best_step", "train_seconds")


def join(data: Prepared, folders: Sequence[Path], out: Path) -> Manifest:
    """Writes the artifact to `out`. Raises BadArtifact, or BadInput where they are not trainings of one shape."""
    if len(folders) < 2:
        raise BadInput(f"an ensemble of {len(folders)}: give --retriever at least twice.")
    loaded = [load(folder, data.catalog) for folder in folders]
    members = [_member(folder, one, loaded[0], data) for folder, one in zip(folders, loaded, strict=True)]
    first, model = loaded[0].manifest, Ensemble(members).eval()
    window = loaded[0].retriever.window
    index, report = index_of(model, data, window)
    manifest = Manifest(
        kind="retriever",
        method=first.method,
        config=first.config | {"members": len(members)},
        seed=first.seed,
        metrics={"valid_recall@10": recall_at_10(model, sample(list(cases(data, "valid"))), window)}
        | {name: round(sum(one.manifest.metrics[name] for one in loaded), 1) for name in SUMS},
        extra={"index": report.json(), "members": [one.manifest.name for one in loaded]},
        data_digest=data.digest,
        catalog_fingerprint=data.catalog.fingerprint(),
        packages=package_versions("torch", "faiss-cpu", "numpy", "safetensors", "tandem-rec"),
    )
    with writing(out) as draft:
        for n, folder in enumerate(folders):
            shutil.copyfile(folder / weights_file(0), draft / weights_file(n))
        shutil.copyfile(folders[0] / POPULARITY, draft / POPULARITY)
        index.save(draft)
        return seal(draft, manifest)


def _member(folder: Path, one: LoadedRetriever, first: LoadedRetriever, data: Prepared) -> LRURec:
    if not isinstance(one.retriever.model, LRURec):
        raise BadInput(f"{folder} is an ensemble itself: give its members.")
    for what, this, that in (
        ("model", one.manifest.config["model"], first.manifest.config["model"]),
        ("window", one.retriever.window, first.retriever.window),
        ("data", one.manifest.data_digest, data.digest),
    ):
        if this != that:
            raise BadInput(f"{folder} has another {what} than the first ({this!r}, not {that!r}): train them alike.")
    return one.retriever.model
