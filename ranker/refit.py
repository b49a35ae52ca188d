"""Fitting the blend of a trained ranker again, to another retriever; for titles alone also over another catalogue."""

from __future__ import annotations

import shutil
from pathlib import Path

from ranker.blend import fit, report
from ranker.evaluate import CANDIDATES, ask, require_held_out
from ranker.registry import heard, load
from shared.artifact import Manifest, open_artifact, seal, writing
from shared.data.prepared import Prepared
from shared.data.split import cases
from shared.protocols import Retriever

TITLES_ALONE = ("llamarec",)
"""Methods that know an item by its title and nothing else: what they learnt holds for items that came later."""


def refit(
    data: Prepared,
    retriever: Retriever,
    retriever_name: str,
    folder: Path,
    device: str = "auto",
    weight: float | None = None,
) -> Manifest:
    """Replaces the blend weight in the artifact `folder`; its weights and its golden score stay. weight: to take in
    place of the fitted one; the gain is then of this one. Raises CatalogMismatch for a ranker that knows the items of
    another catalogue, BadInput for one that has seen what the fit asks."""
    before = open_artifact(folder, "ranker")
    require_held_out(before)
    if before.method not in TITLES_ALONE:
        data.catalog.require(before.catalog_fingerprint, f"the ranker in {folder}")
    with writing(folder) as draft:
        for name in before.files:
            shutil.copyfile(folder / name, draft / name)
        seal(draft, before.model_copy(update={"catalog_fingerprint": data.catalog.fingerprint()}))
        loaded = load(draft, data.catalog, device=device)
        loaded.self_test()
        width = min(CANDIDATES, loaded.ranker.max_candidates)
        everyone = ask(retriever, list(cases(data, "valid")), width, data.user_ids)
        logits_UC, _ = heard(loaded.ranker, everyone, "fit the blend")
        fitted = fit(everyone.scores_UC, logits_UC, everyone.truth_U, before.seed or 0, weight)
        changes = {
            "extra": before.extra | {"blend": fitted.weight, "blended_with": retriever_name},
            "metrics": before.metrics | report(fitted),
        }
        return seal(draft, loaded.manifest.model_copy(update=changes))
