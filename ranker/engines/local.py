"""The in-process engine: torch on one device. What prompts have in common is computed once, within a call and between
calls; of the rest each token once, without padding.

Shapes:  B prompts  T tokens, right padded  N tokens of all prompts  D hidden width  K labels  V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.backbone import Backbone
from ranker.engines import told
from ranker.engines.lean import LeanLlama, Segment, fits, log_sum
from ranker.engines.prefixes import BLOCK, Prefixes, Reuse, digests
from ranker.engines.protocol import LabelScores, Prompt
from ranker.engines.whole import WholeLlama
from ranker.fit import keep_memory
from shared.errors import BadInput
from shared.protocols import Reused

BATCH_TOKENS = 8192
"""Tokens of one forward: enough to fill two cores or a GPU, small enough for any memory."""
CACHE_BYTES = 2**28
"""For prefixes, of each set of weights. SmolLM2 takes 23 KB a token: 11,000 tokens, some 50 users."""
MAX_TOKENS = 8192
SHARED = BLOCK
"""Prompts of one call that begin with as many equal tokens are computed as branches of one prefix."""


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A prompt, or several that begin with the same head. rows: where their answers go. branches: what follows the
    head. inside: the states at the head's last token and at all tokens of the branches, instead of the branches' last
    ones (of a prompt alone: its last one)."""

    head: Prompt
    branches: Sequence[Prompt]
    rows: Sequence[int]
    keep: int = 0
    inside: bool = False

    def __len__(self) -> int:
        return len(self.head) + sum(len(branch) for branch in self.branches)


class LocalEngine:
    """One backbone and adapters over it. Not thread-safe: the ranking service gives it one worker."""

    def __init__(
        self, backbone: Backbone, adapters: Mapping[str, Backbone] | None = None, cache_bytes: int = CACHE_BYTES
    ) -> None:
        """adapters: by name, trees of modules over the same weights (Backbone.shared) with LoRA in them."""
        self.backbone = backbone
        self._bases: dict[str | None, Backbone] = {None: backbone}
        self._bases.update(adapters or {})
        self._forwards: dict[str | None, LeanLlama | WholeLlama] = {}
        self._prefixes = {name: Prefixes(cache_bytes) for name in self._bases}
        self.reuse = Reuse()
        if backbone.device.type == "cpu":
            keep_memory()

    @property
    def cached_bytes(self) -> int:
        return sum(prefixes.held for prefixes in self._prefixes.values())

    def reused(self) -> Reused:
        return Reused(self.reuse.computed, self.reuse.reused, bytes=self.cached_bytes)

    @torch.inference_mode()
    def label_logits(
        self,
        prompts: Sequence[Prompt],
        labels: Sequence[int],
        adapter: str | None = None,
        keep: Sequence[int] | None = None,
    ) -> LabelScores:
        """Answers in the prompts' order. labels: K token ids."""
        hidden_BD = self._last_states(prompts, adapter, keep)
        head = self._base(adapter).model.lm_head
        labels_BK = F.linear(hidden_BD.float(), head.weight[list(labels)].float()).cpu().numpy()
        # Tells how much of the whole vocabulary the labels hold.
        everything_B = log_sum(hidden_BD, head, getattr(self._forward(adapter), "native", None)).cpu().numpy()
        mass_B = np.exp(labels_BK - everything_B[:, None]).sum(axis=1)
        return LabelScores(labels_BK, np.minimum(mass_B, 1.0))

    @torch.inference_mode()
    def last_hidden(
        self, prompts: Sequence[Prompt], adapter: str | None = None, keep: Sequence[int] | None = None
    ) -> np.ndarray:
        return self._last_states(prompts, adapter, keep).float().cpu().numpy()

    @torch.inference_mode()
    def log_likelihoods(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[Sequence[int]]],
        adapter: str | None = None,
        keep: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Per prompt, log P(answer | prompt) of each of its answers, which are plain tokens."""
        units = [
            Unit(prompt, [answer[:-1] for answer in given], [row], kept, inside=True)
            for row, (prompt, given, kept) in enumerate(zip(prompts, answers, keep or [0] * len(prompts), strict=True))
        ]
        found: list[np.ndarray] = [np.zeros(0)] * len(prompts)
        head = self._base(adapter).model.lm_head
        for unit, states_ND in self._states(units, adapter):
            [row] = unit.rows
            tokens = [token for answer in answers[row] for token in answer]
            tokens_N = torch.tensor(tokens, dtype=torch.long, device=states_ND.device)
            before, at = [], 1
            for answer, branch in zip(answers[row], unit.branches, strict=True):
                before += [0, *range(at, at + len(branch))][: len(answer)]
                at += len(branch)
            log_NV = torch.log_softmax(head(states_ND).float(), dim=-1)
            told_N = log_NV[before].gather(1, tokens_N[:, None])[:, 0]
            found[row] = np.array([part.sum().item() for part in told_N.split([len(a) for a in answers[row]])])
        return found

    def close(self) -> None:
        self._forwards.clear()
        self._prefixes = {name: Prefixes(0) for name in self._bases}

    def _base(self, adapter: str | None) -> Backbone:
        if adapter not in self._bases:
            loaded = ", ".join(str(name) for name in self._bases if name) or "none"
            raise BadInput(f"adapter {adapter!r} is not loaded; there are: {loaded}")
        return self._bases[adapter]

    def _forward(self, adapter: str | None) -> LeanLlama | WholeLlama:
        """Made when it is first needed: by then LoRA stands in the modules."""
        if adapter not in self._forwards:
            model = self._base(adapter).model
            self._forwards[adapter] = LeanLlama(model) if fits(model) else WholeLlama(model)
        return self._forwards[adapter]

    def _last_states(self, prompts: Sequence[Prompt], adapter: str | None, keep: Sequence[int] | None) -> Tensor:
        base = self._base(adapter)
        hidden_BD = torch.zeros(
            len(prompts), base.model.config.hidden_size, dtype=base.model.lm_head.weight.dtype, device=base.device
        )
        for unit, states_ND in self._states(units(prompts, keep or [0] * len(prompts)), adapter):
            hidden_BD[list(unit.rows)] = states_ND
        return hidden_BD

    def _states(self, asked: Sequence[Unit], adapter: str | None) -> Iterator[tuple[Unit, Tensor]]:
        for unit in asked:
            longest = len(unit.head) + max((len(branch) for branch in unit.branches), default=0)
            if not len(unit.head) or longest > MAX_TOKENS:
                raise BadInput(f"a prompt of {longest} tokens; this engine takes 1 to {MAX_TOKENS}")
        for rows in batches([len(unit) for unit in asked], BATCH_TOKENS):
            chosen = [asked[row] for row in rows]
            forward = self._forward(adapter)
            if isinstance(forward, WholeLlama):
                states = forward.run(chosen, self._table(adapter))
            else:
                states = self._run(forward, chosen, adapter)
            yield from zip(chosen, states, strict=True)

    def _run(self, forward: LeanLlama, asked: Sequence[Unit], adapter: str | None) -> list[Tensor]:
        prefixes = self._prefixes[adapter]
        pieces: list[Prompt] = []
        segments: list[Segment] = []
        stored: list[tuple[list[bytes], int]] = []
        sizes = []
        for unit in asked:
            # At least one token of the head is computed: its state may be what is asked for.
            chain = digests(unit.head, max(unit.keep, 0)) if unit.keep else []
            blocks = prefixes.find(chain[: (len(unit.head) - 1) // BLOCK])
            known = len(blocks) * BLOCK
            own = len(unit.head) - known
            keep = max(0, len(chain) * BLOCK - known)
            alone = not unit.branches
            branched = sum(len(branch) for branch in unit.branches)
            read = [own - 1] if alone or unit.inside else []
            segments.append(Segment(own, read, known=blocks, keep=keep))
            pieces.append(told.piece(unit.head, known))
            stored.append((chain, len(blocks)))
            if branched:
                segments.append(_branches(unit))
                pieces += unit.branches
                stored.append(([], 0))
            sizes.append(len(read) + (len(segments[-1].read) if branched else 0))
            self.reuse.computed += own + branched
            self.reuse.reused += known + len(unit.head) * max(0, len(unit.rows) - 1)
        states_ND, kept = forward.run(told.embedded(pieces, self._table(adapter)), segments)
        for (chain, first), states_L2PKh in zip(stored, kept, strict=True):
            if states_L2PKh is not None:
                prefixes.put(chain, states_L2PKh, first)
        return list(states_ND.split(sizes))

    def _table(self, adapter: str | None) -> Tensor:
        table: Any = self._base(adapter).model.get_input_embeddings()
        return table.weight


def units(prompts: Sequence[Prompt], keep: Sequence[int]) -> list[Unit]:
    """Neighbours that begin alike become branches of one head, where what follows is shorter than twice the head, and
    as long as all of them fit one forward."""
    made, row = [], 0
    while row < len(prompts):
        shared, end = len(prompts[row]), row + 1
        while end < len(prompts):
            common = min(
                shared, told.in_common(prompts[row], prompts[end]), len(prompts[row]) - 1, len(prompts[end]) - 1
            )
            apart = [len(prompt) - common for prompt in prompts[row : end + 1]]
            if common < SHARED or max(apart) > 2 * common or common + sum(apart) > BATCH_TOKENS:
                break
            shared, end = common, end + 1
        if end == row + 1:
            made.append(Unit(prompts[row], [], [row], keep[row]))
        else:
            branches = [told.piece(prompts[n], shared) for n in range(row, end)]
            made.append(Unit(told.piece(prompts[row], 0, shared), branches, range(row, end), min(keep[row], shared)))
        row = end
    return made


def _branches(unit: Unit) -> Segment:
    """Behind the head's segment: each branch sees the head and itself."""
    head, sizes = len(unit.head), [len(branch) for branch in unit.branches]
    positions: list[int] = []
    starts: list[int] = []
    ends, at = [], 0
    for size in sizes:
        positions += range(head, head + size)
        starts += [at] * size
        at += size
        ends.append(at - 1)
    read = range(sum(sizes)) if unit.inside else ends
    return Segment(sum(sizes), read, follows=True, positions=positions, starts=starts)


def pad_right(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids B x T and the lengths B.

    Padded on the right under causal attention, so that no real token ever sees a pad: no mask is needed, the
    fast causal kernel serves any batch, and a batch equals its singles.
    """
    lengths_B = torch.tensor([len(p) for p in prompts])
    ids_BT = torch.zeros(len(prompts), int(lengths_B.max()), dtype=torch.long)
    for row, prompt in zip(ids_BT, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    return ids_BT, lengths_B


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Rows grouped by length, so that a batch holds little padding and at most `budget` tokens (or one prompt)."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[row] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
