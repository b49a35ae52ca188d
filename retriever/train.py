"""Training LRURec: next-item cross-entropy over the whole catalogue at every position.

Best weights by validation Recall@10. A checkpoint after each validation makes the run resumable to the
same bits: weights, optimizer moments, random state, all as safetensors.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from retriever.batches import train_batches, windows
from retriever.build import QUERIES, Report
from retriever.evaluate import ranks, retrieved
from retriever.index import ItemIndex
from retriever.lrurec import LRURec, LRURecConfig
from retriever.popularity import count
from retriever.recipes import TrainConfig
from retriever.retrieve import POPULARITY, WEIGHTS, LRURecRetriever, Model, build_index, serving_index
from shared import metrics
from shared.artifact import Manifest, package_versions, seal, write_text, writing
from shared.catalog import PAD
from shared.checkpoints import checkpointed
from shared.data.prepared import Prepared
from shared.data.split import Case, cases, train_sequence
from shared.errors import BadInput
from shared.progress import progress

VALIDATION_USERS = 10_000
"""Fewer than twice as many, evenly spaced: enough to choose a stopping point to within half a percent of Recall."""


def train(data: Prepared, config: TrainConfig, out: Path, resume: bool = False) -> Manifest:
    """Writes the artifact to `out` and returns its manifest; `out`.partial holds the checkpoint meanwhile."""
    torch.manual_seed(config.seed)
    pieces = windows((train_sequence(s) for s in data.sequences()), config.window)
    if not pieces:
        raise BadInput("no user has two training items: nothing to learn from. Lower --min-user or add data.")
    model = LRURec(_model_config(data, config))
    optimizer = _optimizer(model, config)
    average = Average(model, config.average)
    run = _Run(out.with_name(out.name + ".partial"), config, data.digest)
    if resume:
        run.restore(model, optimizer, average)
    began = time.monotonic() - run.seconds
    valid = sample(list(cases(data, "valid")))
    if not valid:
        raise BadInput("no user has three items: nothing tells when to stop. Lower --min-user or add data.")
    steps_per_epoch = -(-len(pieces) // config.batch)
    total = steps_per_epoch * config.epochs
    with (
        progress("train lrurec", total, "steps", start=run.step) as advance,
        checkpointed(lambda: run.save(model, optimizer, average)) as between,
    ):
        while run.step < total and run.stale < config.patience:
            epoch = run.step // steps_per_epoch
            rng = np.random.default_rng((config.seed, epoch))
            for i, batch_BL in enumerate(train_batches(pieces, config.batch, config.window, rng)):
                if i < run.step - epoch * steps_per_epoch:
                    continue  # done before the checkpoint
                loss = _step(model, optimizer, batch_BL, config)
                run.step += 1
                average.follow(run.step)
                advance(1, f"loss {loss:.3f}" + (f"  best Recall@10 {run.best:.4f}" if run.curve else ""))
                run.seconds = time.monotonic() - began
                if run.step % config.validate_every == 0 or run.step == total:
                    run.validated(model, optimizer, average, recall_at_10(average.model, valid, config.window))
                    if run.stale >= config.patience:
                        break
                between()
    model.load_state_dict(run.best_weights)
    return _write(data, config, model, run, out)


def _model_config(data: Prepared, config: TrainConfig) -> LRURecConfig:
    return LRURecConfig(
        items=len(data.catalog),
        width=config.width,
        state=config.state,
        blocks=config.blocks,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
    )


def _optimizer(model: LRURec, config: TrainConfig) -> torch.optim.AdamW:
    plain = [p for n, p in model.named_parameters() if "bias" in n or "norm" in n]
    decayed = [p for n, p in model.named_parameters() if not ("bias" in n or "norm" in n)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, eps=1e-9)


def loss_of(model: LRURec, batch_BL: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the real positions; only these pay for the product with the item table.

    smoothing: share of each target that is spread evenly over the catalogue (Szegedy et al., 2016, section 7).
    """
    inputs_BL, targets_BL = batch_BL[:, :-1], batch_BL[:, 1:]
    real_BL = inputs_BL != PAD
    logits_NV = model.scores(model.encode(inputs_BL))
    logits_NV[:, PAD] = -torch.inf
    targets_N = targets_BL[real_BL]
    if not smoothing:
        return F.cross_entropy(logits_NV, targets_N)
    wanted_N = logits_NV.gather(1, targets_N[:, None])[:, 0]
    even_N = logits_NV[:, PAD + 1 :].mean(dim=1)
    return (torch.logsumexp(logits_NV, dim=1) - (1 - smoothing) * wanted_N - smoothing * even_N).mean()


class Average:
    """The exponential moving average of a model's weights, which generalises better than its last ones
    (Polyak and Juditsky, 1992). Early on it looks back over a tenth of the steps only, so that it keeps up."""

    def __init__(self, model: LRURec, decay: float) -> None:
        self._source, self._decay = model, decay
        self.model = copy.deepcopy(model) if decay else model

    @torch.no_grad()
    def follow(self, step: int) -> None:
        if self._decay:
            decay = min(self._decay, (1 + step) / (10 + step))
            for kept, now in zip(self.model.parameters(), self._source.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)


def _step(model: LRURec, optimizer: torch.optim.Optimizer, batch_BL: Tensor, config: TrainConfig) -> float:
    model.train()
    loss = loss_of(model, batch_BL, config.label_smoothing)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return loss.item()


def sample(valid: list[Case]) -> list[Case]:
    return valid[:: max(1, len(valid) // VALIDATION_USERS)]


def recall_at_10(model: Model, valid: list[Case], window: int) -> float:
    retriever = LRURecRetriever(model, build_index(model), window)
    items_UK, _ = retrieved(retriever, valid, 10, "window", window, what=None)
    return float(metrics.recall(ranks(items_UK, valid), 10).mean())


class _Run:
    """What a run knows beside its weights: how far it is, and the best weights so far."""

    def __init__(self, folder: Path, config: TrainConfig, digest: str) -> None:
        self.folder, self.config, self.digest = folder, asdict(config), digest
        self.step = self.best_step = self.stale = 0
        self.best, self.seconds = -1.0, 0.0
        self.curve: list[tuple[int, float]] = []
        self.best_weights: dict[str, Tensor] = {}

    def validated(self, model: LRURec, optimizer: torch.optim.Optimizer, average: Average, recall: float) -> None:
        self.curve.append((self.step, recall))
        if recall > self.best:
            self.best, self.best_step, self.stale = recall, self.step, 0
            self.best_weights = {n: t.detach().clone() for n, t in average.model.state_dict().items()}
        else:
            self.stale += 1
        self.save(model, optimizer, average)

    def save(self, model: LRURec, optimizer: torch.optim.Optimizer, average: Average) -> None:
        tensors = {f"now.{n}": t for n, t in model.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in average.model.state_dict().items()}
        tensors |= {f"best.{n}": t for n, t in self.best_weights.items()}
        for p, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{p}.{name}": t for name, t in moments.items()}
        tensors["random"] = torch.get_rng_state()
        facts = {n: getattr(self, n) for n in ("config", "digest", "step", "best_step", "stale", "best", "seconds")}
        with writing(self.folder) as draft:
            save_file({n: t.contiguous().clone() for n, t in tensors.items()}, draft / "run.safetensors")
            write_text(draft / "run.json", json.dumps(facts | {"curve": self.curve}))

    def restore(self, model: LRURec, optimizer: torch.optim.Optimizer, average: Average) -> None:
        if not (self.folder / "run.json").is_file():
            raise BadInput(f"--resume: {self.folder} holds no checkpoint. Start without --resume.")
        facts = json.loads((self.folder / "run.json").read_text())
        if (facts["config"], facts["digest"]) != (self.config, self.digest):
            raise BadInput(f"--resume: {self.folder} was begun with another config or other data. Start anew.")
        for name in ("step", "best_step", "stale", "best", "seconds", "curve"):
            setattr(self, name, facts[name])
        tensors = load_file(self.folder / "run.safetensors")
        model.load_state_dict(_under("now.", tensors))
        average.model.load_state_dict(_under("average.", tensors))
        self.best_weights = _under("best.", tensors)
        state = optimizer.state_dict()
        for name, t in tensors.items():
            if name.startswith("adam."):
                _, p, moment = name.split(".", 2)
                state["state"].setdefault(int(p), {})[moment] = t
        optimizer.load_state_dict(state)
        torch.set_rng_state(tensors["random"])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _write(data: Prepared, config: TrainConfig, model: LRURec, run: _Run, out: Path) -> Manifest:
    import shutil

    counts_V = count((train_sequence(s) for s in data.sequences()), len(data.catalog))
    manifest = Manifest(
        kind="retriever",
        method="lrurec",
        config={"model": asdict(model.config), "train": asdict(config)},
        seed=config.seed,
        metrics={
            "valid_recall@10": run.best,
            "best_step": run.best_step,
            "steps": run.step,
            "train_seconds": round(run.seconds, 1),
            "curve": run.curve,
        },
        data_digest=data.digest,
        catalog_fingerprint=data.catalog.fingerprint(),
        packages=package_versions("torch", "faiss-cpu", "numpy", "safetensors", "tandem-rec"),
    )
    index, report = index_of(model, data, config.window)
    manifest = manifest.model_copy(update={"extra": {"index": report.json()}})
    with writing(out) as draft:
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, draft / WEIGHTS)
        save_file({"counts": torch.from_numpy(counts_V)}, draft / POPULARITY)
        index.save(draft)
        manifest = seal(draft, manifest)
    shutil.rmtree(run.folder, ignore_errors=True)
    return manifest


def index_of(model: Model, data: Prepared, window: int) -> tuple[ItemIndex, Report]:
    """Its recall is measured for some of the users, as they will ask."""
    sequences = list(data.sequences())
    some = sequences[:: max(1, len(sequences) // QUERIES)]
    users_BD = LRURecRetriever(model, build_index(model), window).encode(some)
    return serving_index(model, users_BD)
