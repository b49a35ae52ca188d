"""Fitting the blend of a trained ranker again, to another retriever over the same catalogue."""

from __future__ import annotations

import shutil
from pathlib import Path

from ranker.blend import fit, report
from ranker.evaluate import CANDIDATES, ask
from ranker.registry import heard, load
from shared.artifact import MANIFEST, Manifest, seal, writing
from shared.data.prepared import Prepared
from shared.data.split import cases
from shared.protocols import Retriever


def refit(data: Prepared, retriever: Retriever, retriever_name: str, folder: Path, device: str = "auto") -> Manifest:
    """Replaces the blend weight in the artifact `folder`; its weights and its golden score stay."""
    loaded = load(folder, data.catalog, device=device)
    loaded.self_test()
    width = min(CANDIDATES, loaded.ranker.max_candidates)
    everyone = ask(retriever, list(cases(data, "valid")), width, data.user_ids)
    logits_UC, _ = heard(loaded.ranker, everyone, "fit the blend")
    fitted = fit(everyone.scores_UC, logits_UC, everyone.truth_U, loaded.manifest.seed or 0)
    manifest = loaded.manifest.model_copy(
        update={
            "extra": loaded.manifest.extra | {"blend": fitted.weight, "blended_with": retriever_name},
            "metrics": loaded.manifest.metrics | report(fitted),
        }
    )
    with writing(folder) as draft:
        for name in manifest.files:
            shutil.copyfile(folder / name, draft / name)
        (draft / MANIFEST).unlink(missing_ok=True)
        return seal(draft, manifest)
