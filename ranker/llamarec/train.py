"""Training LlamaRec: optional warm-ups (binding, likeness of titles), then recommendation prompts; LoRA alone learns.

The best adapter by NDCG@10 on validation users whose truth the retriever found; then the blend is fitted on them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ranker import backbone as backbones
from ranker import blend
from ranker.backbone import Backbone
from ranker.blend import Fit, fit, truth_ranks
from ranker.engines.local import LocalEngine, pad_right
from ranker.evaluate import Questions, ask, score, spread
from ranker.fit import (
    ADAPTER,
    MasterAdamW,
    adapter_weights,
    by_name,
    give_memory_back,
    keep_memory,
    load_checkpoint,
    plain_attention,
    save_checkpoint,
    schedule,
    set_adapter_weights,
)
from ranker.llamarec.batches import Example, Prefix, binding_examples, examples, prefixes
from ranker.llamarec.likeness import Likeness
from ranker.llamarec.model import LlamaRecConfig, asked_loss, log_labels, probe_loss, verbalizer_loss
from ranker.packed import Group, branch_ends, pack
from ranker.prompt import PromptBuilder
from ranker.restore import config_of, lora
from shared import metrics
from shared.artifact import Manifest, open_artifact, package_versions, seal, writing
from shared.catalog import Catalog
from shared.checkpoints import checkpointed
from shared.data.prepared import Prepared
from shared.data.split import cases, train_sequence
from shared.errors import BadInput
from shared.progress import progress
from shared.protocols import Retriever

PASSES = 10


def prompt_builder(tokenizer: object, catalog: Catalog, config: LlamaRecConfig) -> PromptBuilder:
    return PromptBuilder(
        tokenizer,
        catalog,
        config.template,
        max_history=config.history,
        max_title_tokens=config.title_tokens,
        max_tokens=config.max_tokens,
    )


def train(
    data: Prepared,
    retriever: Retriever,
    retriever_name: str,
    config: LlamaRecConfig,
    out: Path,
    resume: bool = False,
    device: str = "auto",
) -> Manifest:
    """Writes the artifact to `out` and returns its manifest; `out`.partial holds the checkpoint meanwhile."""
    torch.manual_seed(config.seed)
    keep_memory()
    begun = _begun(config) if config.begin and not resume else {}
    recorded = by_name(config, "begin")
    base = backbones.load(config.backbone, layers=config.layers, device=device, quantization=config.quantization)
    wrapped = lora(base, config)
    if begun:
        set_adapter_weights(wrapped, begun)
    plain_attention(base.model, config.max_tokens)
    builder = prompt_builder(base.tokenizer, data.catalog, config)
    labels_K = torch.tensor(builder.labels[: config.candidates], device=base.device)
    engine = LocalEngine(base)
    sequences = [train_sequence(s) for s in data.sequences()]
    warmups = config.binding_prompts + config.alike_prompts
    # Of retrieved ones most prefixes have no right answer among the retriever's best, and are left out.
    passes = PASSES if config.negatives == "retrieved" else 1
    chosen = _choose(sequences, config.prompts * passes, (config.seed, 2))
    valid = ask(retriever, spread(list(cases(data, "valid")), config.validation_users), config.candidates)
    probe_D = torch.nn.Parameter(torch.zeros(base.model.config.hidden_size, device=base.device))
    optimizer = MasterAdamW([*(p for p in wrapped.parameters() if p.requires_grad), probe_D])
    identity = {"config": asdict(recorded), "data": data.digest, "retriever": retriever_name}
    run = _Run(out.with_name(out.name + ".partial"), config, identity)
    if resume:
        run.restore(wrapped, optimizer)
    total, per_step = warmups + (config.prompts or len(chosen)), config.batch * config.accumulate
    stream = _stream(sequences, chosen, builder, retriever, len(data.catalog), config, run.position)
    began = time.monotonic() - run.seconds
    with (
        progress("train llamarec", total, "prompts", start=run.prompts) as advance,
        checkpointed(lambda: run.save(optimizer)) as between,
    ):
        while run.prompts < total and run.stale < config.patience:
            if not (batch := list(islice(stream, per_step))):
                break
            wrapped.train()
            letters = 0.0
            for piece in _pieces(batch, config.batch):
                loss, said = _losses(base, labels_K, probe_D, piece, config)
                share = len(piece) / len(batch)
                (share * loss).backward()
                letters += share * said
            rate = schedule(config.schedule, run.prompts // per_step, -(-total // per_step), config.warmup)
            optimizer.step(config.learning_rate * rate, config.clip)
            run.heard(letters, batch)
            advance(len(batch), f"loss {run.loss:.3f}" + (f"  best NDCG@10 {run.best:.4f}" if run.curve else ""))
            run.seconds = time.monotonic() - began
            if run.validation_is_due(total):
                wrapped.eval()
                run.validated(_ndcg(engine, builder, valid, config), wrapped, optimizer)
            between()
    wrapped.eval()
    if run.prompts <= warmups:
        raise BadInput("no training prompt has a right answer among the retriever's best; use --set negatives=mixed")
    if (
        not run.curve or run.curve[-1][0] != run.prompts
    ):  # prompts without an answer were left out, and the stream ended early
        run.validated(_ndcg(engine, builder, valid, config), wrapped, optimizer)
    set_adapter_weights(wrapped, run.best_weights)
    everyone = ask(retriever, spread(list(cases(data, "valid")), config.blend_users), config.candidates)
    logits_UC, _ = score(engine, builder, everyone, "fit the blend")
    fitted = fit(everyone.scores_UC, logits_UC, everyone.truth_U, config.seed)
    golden = _golden(engine, builder, everyone)
    return _write(data, retriever_name, recorded, builder, wrapped, run, fitted, golden, out)


def _begun(config: LlamaRecConfig) -> dict[str, Tensor]:
    """Raises BadInput where those weights would mean something else here."""
    folder = Path(config.begin)
    before = config_of(LlamaRecConfig, open_artifact(folder, "ranker", ["llamarec"]), folder)
    for name in ("backbone", "layers", "lora_rank", "lora_alpha", "lora_targets", "lora_first_layer"):
        own, other = getattr(config, name), getattr(before, name)
        if own != other:
            raise BadInput(f"begin={folder}: its {name} is {other}, this run's {own}. Say --set {name}= as there.")
    return load_file(folder / ADAPTER)


def _pieces(batch: Sequence[Example], most: int) -> Iterator[list[Example]]:
    """What goes through the model at once: not too many, and all with questions or all without."""
    for _, alike in groupby(batch, key=lambda example: example.asks is None):
        kind = list(alike)
        yield from (kind[start : start + most] for start in range(0, len(kind), most))


def _losses(
    base: Backbone,
    labels_K: Tensor,
    probe_D: Tensor,
    batch: list[Example],
    config: LlamaRecConfig,
) -> tuple[Tensor, float]:
    """What is minimised, and the verbalizer's share of it."""
    if batch[0].asks:
        loss = _questions_loss(base, labels_K, batch, config)
        return loss, loss.item()
    ids_BT, lengths_B = pad_right([e.prompt for e in batch])
    states = base.model.model(input_ids=ids_BT.to(base.device), output_hidden_states=config.probe > 0)
    rows_B = torch.arange(len(batch))
    target_BK = torch.from_numpy(np.stack([e.target_K for e in batch])).to(base.device)
    head_VD = base.model.lm_head.weight
    loss = verbalizer_loss(states.last_hidden_state[rows_B, lengths_B - 1], head_VD, labels_K, target_BK, config.loss)
    letters = loss.item()
    listed = [row for row, e in enumerate(batch) if len(e.ends) == config.candidates]
    if config.probe and listed:
        middle_BTD = states.hidden_states[2 * len(base.model.model.layers) // 3]
        ends_BK = torch.tensor([batch[row].ends for row in listed])
        ends_BKD = middle_BTD[torch.tensor(listed)[:, None], ends_BK]
        loss = loss + config.probe * probe_loss(ends_BKD, probe_D, target_BK[listed])
    return loss, letters


def _questions_loss(base: Backbone, labels_K: Tensor, batch: list[Example], config: LlamaRecConfig) -> Tensor:
    """All questions of a prompt as branches of one sequence."""
    told = [(e, e.asks) for e in batch if e.asks]
    groups = [Group(e.prompt, asks.questions) for e, asks in told]
    packed = pack(groups).to(base.device)
    states_BTD = base.model.model(
        input_ids=packed.ids_BT, position_ids=packed.positions_BT, attention_mask=packed.bias(base.dtype)
    ).last_hidden_state
    rows_Q = [row for row, group in enumerate(groups) for _ in group.branches]
    ends_Q = [end for group in groups for end in branch_ends(group)]
    log_QK = log_labels(states_BTD[rows_Q, ends_Q], base.model.lm_head.weight, labels_K, config.loss)
    losses = []
    for (e, asks), own_QK in zip(told, log_QK.split([len(asks.questions) for _, asks in told]), strict=True):
        target_K, alike_QK = (torch.from_numpy(x).to(own_QK) for x in (e.target_K, asks.alike_QK))
        losses.append(asked_loss(own_QK, target_K, alike_QK, asks.own, asks.alike))
    return torch.stack(losses).mean()


def _choose(sequences: Sequence[np.ndarray], wanted: int, seed: tuple[int, int]) -> list[Prefix]:
    """wanted: 0 is each once."""
    every = prefixes(sequences)
    if not every:
        raise BadInput("no user has a new item after two others: there is no prompt to train on. Lower --min-user.")
    order = np.random.default_rng(seed).permutation(len(every))
    return [every[i] for i in np.resize(order, wanted or len(every))]


def _stream(
    sequences: Sequence[np.ndarray],
    chosen: list[Prefix],
    builder: PromptBuilder,
    retriever: Retriever,
    items: int,
    config: LlamaRecConfig,
    position: int,
) -> Iterator[Example]:
    told = builder, retriever, items, config
    needed = config.alike or config.alike_prompts or builder.template.asks
    likeness = Likeness(builder.titles if needed else [])
    after_binding = max(0, position - config.binding_prompts)
    alike = _choose(sequences, config.alike_prompts, (config.seed, 4)) if config.alike_prompts else []
    return chain(
        binding_examples(builder, items, config, first=position),
        examples(sequences, alike, *told, after_binding, "alike", likeness),
        examples(sequences, chosen, *told, max(0, after_binding - config.alike_prompts), likeness=likeness),
    )


def _ndcg(engine: LocalEngine, builder: PromptBuilder, questions: Questions, config: LlamaRecConfig) -> float:
    logits_UC, _ = score(engine, builder, questions, None)
    return float(metrics.ndcg(truth_ranks(logits_UC, questions.truth_U), 10).mean())


class _Run:
    """How far a run is, and the best adapter so far."""

    def __init__(self, folder: Path, config: LlamaRecConfig, identity: Mapping[str, Any]) -> None:
        self.folder, self.config, self.identity = folder, config, identity
        self.prompts = self.position = self.stale = self.best_prompts = 0
        self.best, self.loss, self.seconds = -1.0, 0.0, 0.0
        self.curve: list[tuple[int, float, float]] = []
        self.best_weights: dict[str, Tensor] = {}

    def heard(self, loss: float, batch: list[Example]) -> None:
        """The loss that is shown is a running mean over some 20 batches."""
        self.loss = loss if not self.prompts else 0.95 * self.loss + 0.05 * loss
        self.prompts += len(batch)
        self.position = batch[-1].position + 1

    def validation_is_due(self, total: int) -> bool:
        """After the warm-ups if there are any, then every `validate_every` prompts, and at the end."""
        warmups = self.config.binding_prompts + self.config.alike_prompts
        done = self.prompts - warmups
        past = done // self.config.validate_every + (warmups > 0)
        return self.prompts >= total or (done >= 0 and len(self.curve) < past)

    def validated(self, ndcg: float, wrapped: object, optimizer: MasterAdamW) -> None:
        self.curve.append((self.prompts, ndcg, self.loss))
        if ndcg > self.best:
            self.best, self.stale, self.best_prompts = ndcg, 0, self.prompts
            self.best_weights = adapter_weights(wrapped)
        else:
            self.stale += 1
        self.save(optimizer)

    def save(self, optimizer: MasterAdamW) -> None:
        facts = {n: getattr(self, n) for n in _FACTS}
        tensors = optimizer.tensors() | {f"best.{n}": t for n, t in self.best_weights.items()}
        save_checkpoint(self.folder, tensors, self.identity | facts)
        give_memory_back()

    def restore(self, wrapped: object, optimizer: MasterAdamW) -> None:
        tensors, facts = load_checkpoint(self.folder, self.identity)
        for name in _FACTS:
            setattr(self, name, facts[name])
        optimizer.restore(tensors)
        self.best_weights = {n[5:]: t for n, t in tensors.items() if n.startswith("best.")}


_FACTS = ("prompts", "position", "stale", "best", "best_prompts", "loss", "seconds", "curve")


def _golden(engine: LocalEngine, builder: PromptBuilder, questions: Questions) -> dict[str, list[Any]]:
    """One prompt and its label logits, which every later load must reproduce."""
    listed = questions.items_UC[0][questions.items_UC[0] > 0].tolist()
    prompt = builder.prompts(questions.histories[0].tolist(), listed)[-1]
    scores = engine.label_logits([prompt], builder.labels)
    return {"prompt": prompt, "logits": [round(float(x), 4) for x in scores.logits_BK[0]]}


def _write(
    data: Prepared,
    retriever_name: str,
    config: LlamaRecConfig,
    builder: PromptBuilder,
    wrapped: object,
    run: _Run,
    fitted: Fit,
    golden: dict[str, list[Any]],
    out: Path,
) -> Manifest:
    manifest = Manifest(
        kind="ranker",
        method="llamarec",
        config=asdict(config),
        seed=config.seed,
        metrics={
            "valid_ndcg@10": run.best,
            "best_prompts": run.best_prompts,
            "prompts": run.prompts,
            "train_seconds": round(run.seconds, 1),
            "curve": run.curve,
        }
        | blend.report(fitted),
        extra={"labels": builder.labels, "blend": fitted.weight, "golden": golden, "blended_with": retriever_name},
        data_digest=data.digest,
        catalog_fingerprint=data.catalog.fingerprint(),
        packages=package_versions("torch", "transformers", "peft", "numpy", "safetensors", "tandem-rec"),
    )
    with writing(out) as draft:
        save_file({n: t.cpu().contiguous() for n, t in adapter_weights(wrapped).items()}, draft / ADAPTER)
        manifest = seal(draft, manifest)
    shutil.rmtree(run.folder, ignore_errors=True)
    return manifest
