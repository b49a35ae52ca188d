"""Training examples: every prefix of every training sequence asks for what came next among 20 candidates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ranker.llamarec.likeness import Likeness
from ranker.llamarec.model import LlamaRecConfig
from ranker.prompt import PromptBuilder, ranks_of
from shared.data.split import newly
from shared.history import History
from shared.protocols import Retriever

BLOCK = 256
Stage = Literal["alike", "recommend"]
COPIES = 3
"""Questions for listed titles in each prompt of the second warm-up."""
POOL = 30
"""How deep the retriever is asked for hard negatives."""


@dataclass(frozen=True, slots=True)
class Example:
    position: int
    """In the stream of all examples, left-out ones counted: a resumed run goes on after it."""
    prompt: list[int]
    target_K: np.ndarray
    """Shares of the labels, sum 1."""
    ends: list[int]
    """Where each candidate's line ends in the prompt; empty for the copy task."""
    asks: Asks | None = None
    """For a template that asks: the prompt is only what the questions stand behind."""


@dataclass(frozen=True, slots=True)
class Asks:
    """Of Q questions the first `own` are the history's, the others ask for titles that are listed. alike_QK: whose
    titles each question's is like. alike: the share of that in the loss; the rest is the target's."""

    questions: list[list[int]]
    alike_QK: np.ndarray
    own: int
    alike: float


@dataclass(frozen=True, slots=True)
class Prefix:
    user: int
    length: int
    """Items of history; the truth follows at this position of the sequence."""


def prefixes(sequences: Sequence[np.ndarray]) -> list[Prefix]:
    """Those with at least 2 items of history, that of what follows apart."""
    return [Prefix(u, t) for u, s in enumerate(sequences) for t in np.flatnonzero(newly(s)).tolist() if t >= 2]


def examples(
    sequences: Sequence[np.ndarray],
    chosen: Sequence[Prefix],
    builder: PromptBuilder,
    retriever: Retriever,
    items: int,
    config: LlamaRecConfig,
    first: int = 0,
    stage: Stage = "recommend",
    likeness: Likeness | None = None,
) -> Iterator[Example]:
    """For chosen[first:], in order. Example i depends on the seed and i alone, so a resumed run goes on exactly.

    The retriever is asked for a whole block at a time. stage alike: the second warm-up. likeness: of the builder's
    titles, where the target has a share of it; made here where it is missing.
    """
    before, draw = config.binding_prompts + config.alike_prompts, 1
    if stage == "alike":
        before, draw = config.binding_prompts, 3
        config = replace(config, negatives="mixed", teacher=0.0, alike=1.0)
    if likeness is None:
        likeness = Likeness(builder.titles if config.alike or builder.template.asks else [])
    for start in range(first, len(chosen), BLOCK):
        block = chosen[start : start + BLOCK]
        histories = [History(tuple(sequences[p.user][: p.length].tolist())) for p in block]
        hard = (
            retriever.retrieve(histories, POOL, [h.items for h in histories])
            if _needs_retriever(config)
            else [[]] * len(block)
        )
        for i, (prefix, history, found) in enumerate(zip(block, histories, hard, strict=True), start=start):
            rng = np.random.default_rng((config.seed, draw, i))
            following = sequences[prefix.user][prefix.length : prefix.length + config.targets].tolist()
            right = list(dict.fromkeys(t for t in following if t not in history.items))
            scores = {c.item: c.score for c in found}
            if config.negatives == "retrieved":
                right = [t for t in right if t in list(scores)[: config.candidates]]
                if not right:
                    continue
            wrong = _negatives(right, history, list(scores), items, config, rng)
            candidates = rng.permutation(right + wrong).tolist()
            # What the retriever did not return comes behind all that it did.
            ranks = ranks_of([scores.get(i, -math.inf) for i in candidates])
            share = config.teacher / (1 - config.alike) if config.alike < 1 else 0.0
            target_K = _target(candidates, right, scores, share, config.candidates)
            if builder.template.asks:
                own = builder.asked(history.items, candidates)
                if not own:  # no room for a question behind the list
                    continue
                copies = rng.permutation(candidates)[:COPIES].tolist() if stage == "alike" else []
                alike_QK = np.stack([_alike(likeness, [item], candidates, config) for item in [*own, *copies]])
                questions = [builder.question(item) for item in [*own, *copies]]
                asks = Asks(questions, alike_QK, len(own), config.alike)
                yield Example(before + i, builder.listed(candidates), target_K, [], asks)
                continue
            prompt = builder.build(history.items, candidates, ranks)
            ends = builder.candidate_ends(len(prompt), candidates, ranks)
            if config.alike:
                shown = list(history.items[-builder.max_history :]) if builder.max_history else []
                target_K = (1 - config.alike) * target_K + config.alike * _alike(likeness, shown, candidates, config)
            yield Example(before + i, prompt, target_K, ends)


def binding_examples(builder: PromptBuilder, items: int, config: LlamaRecConfig, first: int = 0) -> Iterator[Example]:
    """The copy task: random titles, which label is this one's?"""
    listed = min(config.candidates, items)
    for i in range(first, config.binding_prompts):
        rng = np.random.default_rng((config.seed, 0, i))
        candidates = (rng.choice(items, size=listed, replace=False) + 1).tolist()
        place = int(rng.integers(listed))
        target_K = np.eye(config.candidates, dtype=np.float32)[place]
        if builder.template.asks:
            asks = Asks([builder.question(candidates[place])], target_K[None], 1, 1.0)
            yield Example(i, builder.listed(candidates), target_K, [], asks)
            continue
        yield Example(i, builder.build_binding(candidates[place], candidates), target_K, [])


def _needs_retriever(config: LlamaRecConfig) -> bool:
    return config.negatives != "uniform" or config.teacher > 0 or config.template == "ranked"


def _negatives(
    right: list[int],
    history: History,
    hard: list[int],
    items: int,
    config: LlamaRecConfig,
    rng: np.random.Generator,
) -> list[int]:
    """Distinct, none of them right and none in the history."""
    wanted = config.candidates - len(right)
    from_retriever = {"uniform": 0, "mixed": wanted // 2, "hard": wanted, "retrieved": wanted}[config.negatives]
    taken = [i for i in hard if i not in right][:from_retriever]
    barred = {*right, *taken, *history.items}
    while len(taken) < wanted and len(barred) < items:
        for i in (rng.integers(items, size=wanted) + 1).tolist():
            if i not in barred and len(taken) < wanted:
                taken.append(i)
                barred.add(i)
    return taken


def _target(candidates: list[int], right: list[int], scores: dict[int, float], share: float, width: int) -> np.ndarray:
    """Of the truth and, with that share, the retriever; shares that sum to 1."""
    truth_K = np.array([i in right for i in candidates], dtype=np.float32)
    truth_K = np.pad(truth_K / truth_K.sum(), (0, width - len(candidates)))
    if share == 0:
        return truth_K
    # An item below the retriever's POOL gets the lowest score that it gave.
    floor = min(scores.values(), default=0.0)
    teacher_C = np.array([scores.get(i, floor) for i in candidates], dtype=np.float32)
    return (1 - share) * truth_K + share * _softmax(teacher_C, width)


def _alike(likeness: Likeness, items: list[int], candidates: list[int], config: LlamaRecConfig) -> np.ndarray:
    return _softmax(config.alike_sharpness * likeness.of(items, candidates), config.candidates)


def _softmax(scores_C: np.ndarray, width: int) -> np.ndarray:
    powers_C = np.exp(scores_C - scores_C.max())
    return np.pad(powers_C / powers_C.sum(), (0, width - len(powers_C)))
