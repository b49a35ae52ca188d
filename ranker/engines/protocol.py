"""What every engine does: prompts in, the logits of a few labels or the last state out. Nothing here knows torch.

Shapes:  B prompts  N soft places of a prompt  D hidden width  K labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class Spliced:
    """A prompt with vectors in place of some tokens, such as a projected embedding of a user or an item.

    ids: at a soft place the id means nothing; it is 0 there. places: N, rising. rows_ND: float32, in the backbone's
    input space.
    """

    ids: Sequence[int]
    places: Sequence[int]
    rows_ND: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


Prompt = Sequence[int] | Spliced
"""Token ids alone, or with vectors among them. At least one token."""


@dataclass(frozen=True, slots=True)
class LabelScores:
    """logits_BK: raw logits of the labels, float32, comparable between prompts. mass_B: the probability that the labels
    hold together, of the whole vocabulary's; NaN from an engine that reads the label rows alone."""

    logits_BK: np.ndarray
    mass_B: np.ndarray


@runtime_checkable
class Engine(Protocol):
    """One backbone and any number of LoRA adapters on one device. Answers stand in the prompts' order.

    adapter: a name that the engine was given with its weights; None is the backbone itself. A name is never given to
    other weights: a new version is a new name, so that nothing cached under it can be stale. Raises BadInput for a
    name that is not loaded and for a prompt longer than the engine takes.

    keep: per prompt, how many of its first tokens another prompt is likely to begin with, so that their keys and values
    are worth keeping. Advice: answers are the same without it, and an engine may have a rule of its own.
    """

    def label_logits(
        self,
        prompts: Sequence[Prompt],
        labels: Sequence[int],
        adapter: str | None = None,
        keep: Sequence[int] | None = None,
    ) -> LabelScores:
        """After each prompt's last token. labels: K token ids."""
        ...

    def last_hidden(
        self, prompts: Sequence[Prompt], adapter: str | None = None, keep: Sequence[int] | None = None
    ) -> np.ndarray:
        """B x D, float32: the final-norm state at each prompt's last token, not scaled to unit length."""
        ...

    def close(self) -> None:
        """Gives threads, processes and memory back."""
        ...


@runtime_checkable
class TellsLikelihoods(Protocol):
    """What an engine may do beside: whole answers instead of labels."""

    def log_likelihoods(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[Sequence[int]]],
        adapter: str | None = None,
        keep: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Per prompt, log P(answer | prompt) of each of its answers, which are plain tokens."""
        ...
