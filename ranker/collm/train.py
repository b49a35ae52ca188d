"""Training CoLLM in two steps (section 3.3): LoRA on text alone, which is TALLRec; then the mapping, LoRA frozen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ranker import backbone as backbones
from ranker import golden, weights
from ranker.backbone import Backbone
from ranker.behaviour import lrurec
from ranker.behaviour.fit import FitConfig, Selected, fit_pairs, pair_auc, pair_logits, select, tensors
from ranker.behaviour.model import Behaviour, Sizes
from ranker.behaviour.models import save
from ranker.blend import Fit, report
from ranker.collm.batches import everything, pairs_of, slates
from ranker.collm.model import CoLLM, asked_of, mapping, pair_loss
from ranker.collm.rank import MAPPING, USERS, CoLLMScorer, numbered, prompt_builder
from ranker.collm.recipes import AT_ONCE, CoLLMConfig
from ranker.descent import Pace, Progress, descend, rows_at
from ranker.evaluate import CANDIDATES
from ranker.fit import ADAPTER, by_name, keep_memory, plain_attention, require_checkpoint, set_adapter_weights
from ranker.opinion import fit_blend
from ranker.restore import lora
from ranker.weights import settle
from shared import metrics
from shared.artifact import Manifest, open_artifact, package_versions, seal, write_text, writing
from shared.data.pairs import PairData, Pairs, real
from shared.data.prepared import Prepared
from shared.errors import BadInput
from shared.history import History
from shared.protocols import Retriever

TYPICAL = 32
"""Prompts whose length speaks for all."""


def train(
    data: Prepared | PairData,
    config: CoLLMConfig,
    out: Path,
    *,
    retriever: Retriever | None = None,
    retriever_name: str = "",
    retriever_folder: Path | None = None,
    resume: bool = False,
    device: str = "auto",
) -> Manifest:
    """Writes the artifact to `out`; `out`.partial holds the checkpoints meanwhile.

    A prepared folder needs the retriever: it gives negatives and candidates, and the blend is fitted to it. On the
    paper's own pairs the language model stands alone.
    """
    torch.manual_seed(config.seed)
    keep_memory()
    folder = out.with_name(out.name + ".partial")
    require_checkpoint(folder, resume)
    recorded = by_name(config, "tallrec")
    base = backbones.load(config.backbone, layers=config.layers, device=device, quantization=config.quantization)
    pairs = data if isinstance(data, PairData) else pairs_of(data, _needed(retriever), config)
    wrapped = _lora(base, config)
    chosen = None if config.tune == "text" else _behaviour(data, pairs, config, retriever_folder, base.device)
    behaviour = chosen.model if chosen else None
    projector = mapping(behaviour, base.model.config.hidden_size).to(base.device) if behaviour else None
    model = CoLLM(base, prompt_builder(base.tokenizer, data.catalog, config), behaviour, projector)
    identity = {"config": asdict(recorded), "data": data.digest, "retriever": retriever_name}
    valid = _some(pairs.valid, config)
    told_N = _told(pairs.train, behaviour, config)
    units = slates(pairs.train, config.together) if config.packed else [np.array([n]) for n in range(len(pairs.train))]
    plain_attention(base.model, max(map(len, model.groups(asked_of(pairs.train, units[:TYPICAL]), False)[0])))
    steps: dict[str, Progress] = {}
    for step in _steps(config):
        own = _told_of(units, pairs.train, behaviour) if behaviour and step in ("mapping", "mapping+model") else units
        prompts = (config.text_prompts if step == "text" else config.mapping_prompts) or len(own)
        learning = _weights(step, wrapped, projector, behaviour)
        torch.manual_seed(config.seed)  # step one is the same bits whatever comes with it
        hybrid = step != "text"

        def loss_at(at: int, hybrid: bool = hybrid, step: str = step, own: list[np.ndarray] = own) -> Tensor:
            wrapped.train(step in ("text", *AT_ONCE))
            taken = [own[unit] for unit in rows_at(at, config.batch, len(own), config.seed)]
            rows_N = np.concatenate(taken)
            logits_N = (
                model.slate_logits(pairs.train, taken, hybrid)
                if config.packed
                else model.pair_logits(pairs.train.take(rows_N), hybrid)
            )
            labels_N = told_N if hybrid else pairs.train.labels_N
            return pair_loss(logits_N, torch.from_numpy(labels_N[rows_N]).to(base.device))

        def validate(hybrid: bool = hybrid) -> float:
            wrapped.eval()
            return metrics.auc(valid.labels_N, score_pairs(model, valid, hybrid, config.packed))

        pace = Pace.of(config, prompts=prompts)
        steps[step] = descend(f"train {step}", learning, pace, loss_at, validate, folder / step, identity, resume)
        for parameter in learning.values():
            parameter.requires_grad_(False)
    wrapped.eval()
    for module in (behaviour, projector):
        if module is not None:
            settle(module, config.precision)
    scorer = CoLLMScorer(model, numbered(pairs.user_ids), config.candidates)
    fitted = fit_blend(data, _needed(retriever), scorer, config.seed) if isinstance(data, Prepared) else None
    return _write(data, pairs, recorded, model, wrapped, scorer, steps, chosen, fitted, retriever_name, out)


@torch.inference_mode()
def score_pairs(model: CoLLM, pairs: Pairs, hybrid: bool, packed: bool = False) -> np.ndarray:
    """Yes logits N, in the order of the pairs. packed: neighbours of one history share a prompt."""
    logits_N = np.zeros(len(pairs))
    if packed:
        for slate in slates(pairs):
            logits_N[slate] = model.slate_logits(pairs, [slate], hybrid).cpu().numpy()
        return logits_N
    # By the length of the history, so that a batch holds little padding.
    order = np.argsort((pairs.histories_NL > 0).sum(1), kind="stable")
    for rows in np.array_split(order, max(1, -(-len(order) // 32))) if len(order) else []:
        logits_N[rows] = model.pair_logits(pairs.take(rows), hybrid).cpu().numpy()
    return logits_N


def _steps(config: CoLLMConfig) -> list[str]:
    first = [] if config.tallrec or config.tune in AT_ONCE else ["text"]
    return first + ([config.tune] if config.tune != "text" else [])


def _weights(
    step: str, wrapped: Any, projector: nn.Module | None, behaviour: Behaviour | None
) -> dict[str, nn.Parameter]:
    """What a step trains, by name; all else is frozen."""
    learning: dict[str, nn.Parameter] = {}
    lora = {n: p for n, p in wrapped.named_parameters() if "lora_" in n}
    if step in ("text", *AT_ONCE):
        learning |= lora
    if step != "text" and projector is not None:
        learning |= {f"mapping.{n}": p for n, p in projector.named_parameters()}
    if step in ("mapping+model", "together") and behaviour is not None:
        learning |= {f"behaviour.{n}": p for n, p in behaviour.named_parameters()}
    for parameter in lora.values():
        parameter.requires_grad_(False)
    for parameter in learning.values():
        parameter.requires_grad_(True)
    return learning


def _needed(retriever: Retriever | None) -> Retriever:
    if retriever is None:
        raise BadInput(
            "a prepared data folder holds no labels: give the retriever that proposes negatives, --retriever."
        )
    return retriever


def _behaviour(
    data: Prepared | PairData, pairs: PairData, config: CoLLMConfig, retriever: Path | None, device: torch.device
) -> Selected:
    """Trained, and rounded to what the artifact will hold."""
    if config.behaviour == "lrurec":
        if retriever is None:
            raise BadInput("behaviour=lrurec is the retriever's own model: give its artifact with --retriever.")
        read = lrurec.read(retriever, data.catalog).requires_grad_(False).to(device)
        settle(read, config.precision)
        return Selected(read, pair_auc(read, pairs.valid), 0.0)
    train = pairs.train if isinstance(data, PairData) else everything(data, config)
    sizes = Sizes(users=len(pairs.user_ids), items=len(data.catalog), width=config.width, window=config.window)
    fitting = FitConfig(epochs=config.behaviour_epochs, seed=config.seed)
    chosen = select(
        lambda one: fit_pairs(config.behaviour, sizes, train, pairs.valid, one, device),
        fitting,
        config.behaviour_decays,
    )
    settle(chosen.model, config.precision)
    return chosen


def _told_of(units: list[np.ndarray], train: Pairs, behaviour: Behaviour) -> list[np.ndarray]:
    """Without the pairs that are asked by text alone: to the mapping they tell nothing."""
    users_N, items_N, histories_NL = tensors(train, behaviour.known_items_V.device)
    knows_N = (behaviour.knows_users(users_N, histories_NL) & behaviour.knows_items(items_N)).cpu().numpy()
    told = [rows for unit in units if len(rows := unit[knows_N[unit]])]
    if not told:
        raise BadInput(
            f"no training pair has vectors on both sides in {type(behaviour).__name__}: its mapping learns nothing."
        )
    return told


def _told(train: Pairs, behaviour: Behaviour | None, config: CoLLMConfig) -> np.ndarray:
    """The labels of step two."""
    if behaviour is None or not config.teacher:
        return train.labels_N
    said_N = 1 / (1 + np.exp(-pair_logits(behaviour, train)))
    return ((1 - config.teacher) * train.labels_N + config.teacher * said_N).astype(np.float32)


def _lora(base: Backbone, config: CoLLMConfig) -> Any:
    wrapped = lora(base, config)
    if config.tallrec:
        first = Path(config.tallrec)
        made = open_artifact(first, "ranker", methods=("tallrec",)).config
        for key in ("backbone", "layers", "lora_rank", "lora_alpha", "lora_first_layer"):
            if made[key] != getattr(config, key):
                raise BadInput(
                    f"tallrec={first} was trained with {key}={made[key]!r}, this run has {getattr(config, key)!r}."
                )
        set_adapter_weights(wrapped, load_file(first / ADAPTER))
    return wrapped


def _some(pairs: Pairs, config: CoLLMConfig) -> Pairs:
    """validation_pairs at most; whole slates where they are packed."""
    units = slates(pairs) if config.packed else [np.array([row]) for row in range(len(pairs))]
    order = np.random.default_rng((config.seed, 4)).permutation(len(units))
    rows_N = np.concatenate([units[unit] for unit in order[: config.validation_pairs]])[: config.validation_pairs]
    return pairs.take(rows_N)


def _write(
    data: Prepared | PairData,
    pairs: PairData,
    config: CoLLMConfig,
    model: CoLLM,
    wrapped: Any,
    scorer: CoLLMScorer,
    steps: Mapping[str, Progress],
    chosen: Selected | None,
    fitted: Fit | None,
    retriever_name: str,
    out: Path,
) -> Manifest:
    history = History(tuple(real(pairs.valid.histories_NL[0])), pairs.user_ids[pairs.valid.users_N[0] - 1])
    items = sorted({int(i) for i in pairs.valid.items_N[:200]})[:CANDIDATES]
    extra: dict[str, Any] = {
        "answers": model.prompts.answers,
        "blend": fitted.weight if fitted else 1.0,
        "blended_with": retriever_name,
        "golden": golden.make(scorer, history, items),
    }
    with writing(out) as draft:
        named = {n: p.detach().cpu().contiguous() for n, p in wrapped.named_parameters() if "lora_" in n}
        save_file(named, draft / ADAPTER)
        if model.behaviour is not None and model.mapping is not None:
            weights.save(model.mapping.state_dict(), draft / MAPPING, config.precision)
            extra["sizes"] = save(model.behaviour, draft, config.precision)
            write_text(draft / USERS, json.dumps(list(pairs.user_ids)))
        manifest = Manifest(
            kind="ranker",
            method="tallrec" if config.tune == "text" else "collm",
            config=asdict(config),
            seed=config.seed,
            metrics={
                "valid_auc": list(steps.values())[-1].best,
                "train_seconds": round(sum(run.seconds for run in steps.values()), 1),
                "steps": {name: {"curve": run.curve, "best_prompts": run.best_prompts} for name, run in steps.items()},
            }
            | ({"behaviour": {"auc": chosen.score, "weight_decay": chosen.weight_decay}} if chosen else {})
            | (report(fitted) if fitted else {}),
            extra=extra,
            data_digest=data.digest,
            catalog_fingerprint=data.catalog.fingerprint(),
            packages=package_versions("torch", "transformers", "peft", "numpy", "safetensors", "tandem-rec"),
        )
        manifest = seal(draft, manifest)
    shutil.rmtree(out.with_name(out.name + ".partial"), ignore_errors=True)
    return manifest
