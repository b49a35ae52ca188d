"""One stage of a training: AdamW over named weights, validation now and then, the best weights kept, resumable.

A batch is a function of its step alone, so that a run goes on after an interruption to the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from ranker.fit import MasterAdamW, give_memory_back, load_checkpoint, overwrite, save_checkpoint, schedule
from shared.checkpoints import checkpointed
from shared.progress import progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """prompts and validate_every count prompts; warmup counts steps of `accumulate` batches of `batch` prompts.

    least: the share of the learning rate that the schedule ends at. patience: validations without a better score.
    """

    prompts: int
    batch: int
    accumulate: int = 1
    learning_rate: float
    warmup: int
    schedule: Literal["linear", "cosine", "constant"]
    least: float = 0.0
    clip: float = 1.0
    validate_every: int
    patience: int

    @classmethod
    def of(cls, config: object, **changes: Any) -> Pace:
        """The fields that a method's config has by the same names; in `changes` the prompts, and what else differs."""
        own = {one.name: getattr(config, one.name) for one in fields(cls) if hasattr(config, one.name)}
        return cls(**own | changes)

    @property
    def steps(self) -> int:
        return -(-self.prompts // self.per_step)

    @property
    def per_step(self) -> int:
        return self.batch * self.accumulate


@dataclass(slots=True)
class Progress:
    """How far a stage is. curve: (prompts, validation score, running mean of the loss)."""

    step: int = 0
    stale: int = 0
    best: float = float("-inf")
    best_prompts: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in Progress.__slots__}


def descend(
    what: str,
    weights: Mapping[str, nn.Parameter],
    pace: Pace,
    loss_at: Callable[[int], Tensor],
    validate: Callable[[], float],
    folder: Path,
    identity: Mapping[str, Any],
    resume: bool,
) -> Progress:
    """Leaves the best weights by `validate` (higher is better) in place; `folder` keeps the checkpoint.

    loss_at: the loss of a batch, from 0; a step takes `accumulate` of them. resume: go on from `folder` where it
    holds a checkpoint of the same identity, else start; a finished stage only restores its weights.
    """
    optimizer = MasterAdamW(list(weights.values()))
    run = Progress()
    best: dict[str, Tensor] = {}
    if resume and (folder / "run.json").is_file():
        tensors, facts = load_checkpoint(folder, identity)
        for name in Progress.__slots__:
            setattr(run, name, facts[name])
        run.curve = [(prompts, score, loss) for prompts, score, loss in run.curve]
        optimizer.restore(tensors)
        best = {name[5:]: t for name, t in tensors.items() if name.startswith("best.")}
    began = time.monotonic() - run.seconds

    def save() -> None:
        run.seconds = time.monotonic() - began
        kept = {f"best.{name}": t for name, t in best.items()}
        save_checkpoint(folder, optimizer.tensors() | kept, dict(identity) | run.facts())
        give_memory_back()

    with (
        progress(what, pace.steps * pace.per_step, "prompts", start=run.step * pace.per_step) as advance,
        checkpointed(save) as between,
    ):
        while run.step < pace.steps and run.stale < pace.patience:
            total = 0.0
            for piece in range(pace.accumulate):
                loss = loss_at(run.step * pace.accumulate + piece) / pace.accumulate
                loss.backward()
                total += loss.item()
            rate = schedule(pace.schedule, run.step, pace.steps, pace.warmup, pace.least)
            optimizer.step(pace.learning_rate * rate, pace.clip)
            run.loss = total if run.step == 0 else 0.95 * run.loss + 0.05 * total
            run.step += 1
            advance(pace.per_step, f"loss {run.loss:.3f}" + (f"  best {run.best:.4f}" if run.curve else ""))
            done = run.step * pace.per_step
            if done // pace.validate_every > (done - pace.per_step) // pace.validate_every or run.step == pace.steps:
                score = validate()
                run.curve.append((done, score, run.loss))
                if score > run.best:
                    run.best, run.best_prompts, run.stale = score, done, 0
                    best = {name: p.detach().clone() for name, p in weights.items()}
                else:
                    run.stale += 1
                save()
            between()
    for name, parameter in weights.items():
        if name in best:
            overwrite(parameter, best[name])
    return run


def rows_at(step: int, batch: int, total: int, seed: int) -> np.ndarray:
    """The rows of one batch out of `total`: epoch after epoch, each in an order of its own."""
    places_B = np.arange(step * batch, (step + 1) * batch)
    return np.array([_order(int(place) // total, total, seed)[place % total] for place in places_B])


@lru_cache(maxsize=4)
def _order(epoch: int, total: int, seed: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(total)
