"""Prompts as arrays: what two have in common, a piece of one, and their input embeddings.

Shapes:  N tokens  S distinct slots  D hidden width
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.engines.protocol import Prompt, Spliced
from ranker.splice import Fill


def spliced(prompts: Sequence[Sequence[int]], vocabulary: int, fill: Fill, device: torch.device) -> list[Prompt]:
    """Prompts with slots (V + s, ranker/splice.py) as an engine takes them; each slot is filled in once."""
    soft = [[place for place, token in enumerate(prompt) if token >= vocabulary] for prompt in prompts]
    slots_S = sorted(
        {prompt[place] - vocabulary for prompt, places in zip(prompts, soft, strict=True) for place in places}
    )
    if not slots_S:
        return list(prompts)
    rows_SD = fill(torch.tensor(slots_S, device=device)).detach().float().cpu().numpy()
    row_of = {slot: row for row, slot in enumerate(slots_S)}
    told: list[Prompt] = []
    for prompt, places in zip(prompts, soft, strict=True):
        if not places:
            told.append(prompt)
            continue
        ids = [0 if token >= vocabulary else token for token in prompt]
        told.append(Spliced(ids, places, rows_SD[[row_of[prompt[place] - vocabulary] for place in places]]))
    return told


def piece(prompt: Prompt, start: int, end: int | None = None) -> Prompt:
    end = len(prompt) if end is None else end
    if not isinstance(prompt, Spliced):
        return prompt[start:end]
    inside = [n for n, place in enumerate(prompt.places) if start <= place < end]
    return Spliced(prompt.ids[start:end], [prompt.places[n] - start for n in inside], prompt.rows_ND[inside])


def joined(first: Prompt, second: Prompt) -> Prompt:
    if not isinstance(first, Spliced) and not isinstance(second, Spliced):
        return [*first, *second]
    one, other = _as_spliced(first, second), _as_spliced(second, first)
    places = [*one.places, *(len(one) + place for place in other.places)]
    return Spliced([*one.ids, *other.ids], places, np.concatenate([one.rows_ND, other.rows_ND]))


def _as_spliced(prompt: Prompt, like: Prompt) -> Spliced:
    if isinstance(prompt, Spliced):
        return prompt
    assert isinstance(like, Spliced)
    return Spliced(prompt, [], np.zeros((0, like.rows_ND.shape[1]), dtype=np.float32))


def in_common(one: Prompt, other: Prompt) -> int:
    """Leading tokens that both have; a place that holds a vector counts as different, whatever it holds."""
    shortest = min(_first_soft(one), _first_soft(other))
    a, b = (np.asarray(p.ids if isinstance(p, Spliced) else p)[:shortest] for p in (one, other))
    differ = np.flatnonzero(a != b)
    return int(differ[0]) if len(differ) else shortest


def _first_soft(prompt: Prompt) -> int:
    return prompt.places[0] if isinstance(prompt, Spliced) and len(prompt.places) else len(prompt)


def embedded(prompts: Sequence[Prompt], table_VD: Tensor) -> Tensor:
    """N x D: all of them one after another."""
    ids = np.concatenate([np.asarray(p.ids if isinstance(p, Spliced) else p, dtype=np.int64) for p in prompts])
    x_ND = F.embedding(torch.from_numpy(ids).to(table_VD.device), table_VD)
    at = 0
    for prompt in prompts:
        if isinstance(prompt, Spliced) and len(prompt.places):
            where = torch.as_tensor(prompt.places, device=table_VD.device) + at
            x_ND[where] = torch.from_numpy(prompt.rows_ND).to(table_VD.device, table_VD.dtype)
        at += len(prompt)
    return x_ND
