"""Training LLaRA: LoRA and the projector together, batches text-only or hybrid as the curriculum says (section 3.4)."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ranker import backbone as backbones
from ranker import golden, weights
from ranker.behaviour import lrurec
from ranker.behaviour.fit import FitConfig, Selected, fit_nexts, next_mrr, select
from ranker.behaviour.model import Sizes
from ranker.behaviour.models import load, save
from ranker.blend import Fit
from ranker.blend import report as blend_report
from ranker.descent import Pace, Progress, descend
from ranker.fit import ADAPTER, by_name, keep_memory, plain_attention, require_checkpoint
from ranker.llara.batches import Slate, bindings_at, fixed_slates, nexts_of, slates_at
from ranker.llara.curriculum import is_hybrid
from ranker.llara.evaluate import opinions, right_places
from ranker.llara.model import LLaRA, sr2llm
from ranker.llara.rank import PROJECTOR, LLaRAScorer, answer_tokens, prompt_builder, scorer
from ranker.llara.recipes import LLaRAConfig
from ranker.opinion import fit_blend
from ranker.restore import lora
from ranker.weights import settle
from shared.artifact import Manifest, open_artifact, package_versions, seal, writing
from shared.data.pairs import NextData, Nexts
from shared.data.prepared import Prepared
from shared.errors import BadInput
from shared.history import History
from shared.protocols import Retriever

TYPICAL = 32
"""Prompts whose length speaks for all."""


def train(
    data: Prepared | NextData,
    config: LLaRAConfig,
    out: Path,
    *,
    retriever: Retriever | None = None,
    retriever_name: str = "",
    retriever_folder: Path | None = None,
    resume: bool = False,
    device: str = "auto",
) -> Manifest:
    """Writes the artifact to `out`; `out`.partial holds the checkpoint meanwhile.

    With a retriever the blend is fitted to it; on the paper's own rows the language model stands alone.
    """
    torch.manual_seed(config.seed)
    keep_memory()
    folder = out.with_name(out.name + ".partial")
    require_checkpoint(folder, resume)
    recorded = by_name(config, "sequential")
    base = backbones.load(config.backbone, layers=config.layers, device=device, quantization=config.quantization)
    nexts = data if isinstance(data, NextData) else nexts_of(data, config)
    if not len(nexts.train):
        raise BadInput(f"no user has {config.shortest + 1} training items: there is no row to train on.")
    chosen = _behaviour(nexts, config, retriever_folder, base.device)
    behaviour = chosen.model
    torch.manual_seed(config.seed)  # the same first weights whether the sequential model was trained here or taken
    wrapped = lora(base, config)
    projector = sr2llm(behaviour, base.model.config.hidden_size).to(base.device)
    model = LLaRA(base, prompt_builder(base, data.catalog, config), behaviour, projector)
    items = len(data.catalog)
    valid = fixed_slates(_some(nexts.valid, config.validation_rows, config.seed), items, retriever, config)
    typical = fixed_slates(nexts.train.take(np.arange(min(TYPICAL, len(nexts.train)))), items, None, config)
    plain_attention(base.model, max(len(model.prompt(slate.history, slate.candidates, True)) for slate in typical))
    pace = Pace.of(config, prompts=config.prompts or len(nexts.train))
    learning = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    learning |= {f"projector.{n}": p for n, p in projector.named_parameters()}
    served = scorer(model, config)

    def loss_at(at: int) -> Tensor:
        wrapped.train()
        batch = slates_at(at, nexts.train, items, retriever, config)
        return model.loss(batch, is_hybrid(config.curriculum, at // config.accumulate, pace.steps, config.seed))

    def binding_loss_at(at: int) -> Tensor:
        wrapped.train()
        return model.binding_loss(bindings_at(at, nexts.train, items, config))

    def validate() -> float:
        wrapped.eval()
        return hit_ratio(served, valid)

    identity = {"config": asdict(recorded), "data": data.digest, "retriever": retriever_name}
    bound = Progress()
    if config.binding_prompts:
        begin = Pace.of(config, prompts=config.binding_prompts)
        bound = descend(
            "train llara, binding", learning, begin, binding_loss_at, validate, folder / "binding", identity, resume
        )
    run = descend("train llara", learning, pace, loss_at, validate, folder / "run", identity, resume)
    wrapped.eval()
    settle(projector, config.precision)
    fitted = (
        fit_blend(data, retriever, served, config.seed, config.candidates)
        if isinstance(data, Prepared) and retriever
        else None
    )
    return _write(data, nexts, recorded, model, wrapped, served, bound, run, chosen, fitted, retriever_name, out)


def hit_ratio(scorer: LLaRAScorer, slates: list[Slate]) -> float:
    """HitRatio@1, as served."""
    return float(np.mean(opinions(scorer, slates).argmax(-1) == right_places(slates)))


def _behaviour(nexts: NextData, config: LLaRAConfig, retriever: Path | None, device: torch.device) -> Selected:
    """Trained, and rounded to what the artifact will hold."""
    if config.behaviour == "lrurec":
        if retriever is None:
            raise BadInput("behaviour=lrurec is the retriever's own model: give its artifact with --retriever.")
        read = lrurec.read(retriever, nexts.catalog).requires_grad_(False).to(device)
        settle(read, config.precision)
        return Selected(read, next_mrr(read, nexts.valid), 0.0)
    if config.sequential:
        return _taken(Path(config.sequential), nexts, config, device)
    sizes = Sizes(users=0, items=len(nexts.catalog), width=config.width, window=nexts.train.histories_NL.shape[1])
    fitting = FitConfig(epochs=config.behaviour_epochs, seed=config.seed)
    chosen = select(
        lambda one: fit_nexts(config.behaviour, sizes, nexts.train, nexts.valid, one, device),
        fitting,
        config.behaviour_decays,
    )
    settle(chosen.model, config.precision)
    return chosen


def _taken(folder: Path, nexts: NextData, config: LLaRAConfig, device: torch.device) -> Selected:
    made = open_artifact(folder, "ranker", methods=("llara",))
    if made.data_digest != nexts.digest:
        raise BadInput(
            f"sequential={folder} was trained on other data: {made.data_digest[:8]}, here {nexts.digest[:8]}."
        )
    if made.config["behaviour"] != config.behaviour:
        raise BadInput(f"sequential={folder} holds {made.config['behaviour']}; this run has {config.behaviour}.")
    told = made.metrics["behaviour"]
    model = load(config.behaviour, made.extra["sizes"], folder).to(device)
    settle(model, config.precision)
    return Selected(model, told["mrr"], told["weight_decay"])


def _some(nexts: Nexts, wanted: int, seed: int) -> Nexts:
    return nexts.take(np.random.default_rng((seed, 4)).permutation(len(nexts))[:wanted])


def _write(
    data: Prepared | NextData,
    nexts: NextData,
    config: LLaRAConfig,
    model: LLaRA,
    wrapped: Any,
    served: LLaRAScorer,
    bound: Progress,
    run: Progress,
    chosen: Selected,
    fitted: Fit | None,
    retriever_name: str,
    out: Path,
) -> Manifest:
    [slate] = fixed_slates(nexts.valid.take(np.array([0])), len(data.catalog), None, config)
    extra: dict[str, Any] = {
        "answer_tokens": answer_tokens(model.prompts),
        "blend": fitted.weight if fitted else 1.0,
        "blended_with": retriever_name,
        "golden": golden.make(served, History(tuple(slate.history)), slate.candidates),
    }
    with writing(out) as draft:
        named = {n: p.detach().cpu().contiguous() for n, p in wrapped.named_parameters() if "lora_" in n}
        save_file(named, draft / ADAPTER)
        weights.save(model.projector.state_dict(), draft / PROJECTOR, config.precision)
        extra["sizes"] = save(model.behaviour, draft, config.precision)
        manifest = Manifest(
            kind="ranker",
            method="llara",
            config=asdict(config),
            seed=config.seed,
            metrics={
                "valid_hit_ratio@1": run.best,
                "best_prompts": run.best_prompts,
                "train_seconds": round(bound.seconds + run.seconds, 1),
                "binding_curve": bound.curve,
                "curve": run.curve,
                "behaviour": {"mrr": chosen.score, "weight_decay": chosen.weight_decay},
            }
            | (blend_report(fitted) if fitted else {}),
            extra=extra,
            data_digest=data.digest,
            catalog_fingerprint=data.catalog.fingerprint(),
            packages=package_versions("torch", "transformers", "peft", "numpy", "safetensors", "tandem-rec"),
        )
        manifest = seal(draft, manifest)
    shutil.rmtree(out.with_name(out.name + ".partial"), ignore_errors=True)
    return manifest
