"""LRURec as the retriever trained it, read from its artifact: the file is the contract, no model class is shared.

Only the forward, as a plain loop over time; the names of the weights are those of the artifact (see there).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ranker.behaviour.model import Behaviour, Sizes
from shared.artifact import open_artifact
from shared.catalog import PAD, Catalog
from shared.errors import BadArtifact

EXPANSION = 4


class Recurrence(nn.Module):
    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.nu_log_H = nn.Parameter(torch.zeros(state))
        self.theta_log_H = nn.Parameter(torch.zeros(state))
        self.gamma_log_H = nn.Parameter(torch.zeros(state))
        self.into, self.out = nn.Linear(width, 2 * state), nn.Linear(2 * state, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BLD: Tensor, real_BL: Tensor) -> Tensor:
        lambda_H = torch.polar(torch.exp(-torch.exp(self.nu_log_H)), torch.exp(self.theta_log_H))
        drive_BLH = torch.view_as_complex(
            self.into(x_BLD).unflatten(-1, (-1, 2)) * torch.exp(self.gamma_log_H)[:, None]
        )
        state_BH = torch.zeros_like(drive_BLH[:, 0])
        states = []
        for drive_BH, real_B in zip(drive_BLH.unbind(1), real_BL.unbind(1), strict=True):
            state_BH = lambda_H * state_BH + drive_BH * real_B[:, None]
            states.append(state_BH)
        out_BLD = self.out(torch.view_as_real(torch.stack(states, dim=1)).flatten(-2))
        return self.norm(out_BLD + x_BLD)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, EXPANSION * width), nn.Linear(EXPANSION * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.norm(self.down(F.gelu(self.up(x_BLD))) + x_BLD)


class LRURec(Behaviour):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.embedding = nn.Embedding(sizes.items + 1, sizes.width, padding_idx=PAD)
        self.norm = nn.LayerNorm(sizes.width)
        self.recurrences = nn.ModuleList(Recurrence(sizes.width, sizes.state) for _ in range(sizes.blocks))
        self.feed_forwards = nn.ModuleList(FeedForward(sizes.width) for _ in range(sizes.blocks))
        self.bias_V = nn.Parameter(torch.zeros(sizes.items + 1))

    def item_vectors(self, items_N: Tensor) -> Tensor:
        return self.embedding(items_N)

    def user_vectors(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        longest = max(1, int((histories_BL != PAD).sum(1).max()))
        histories_BL = histories_BL[:, -longest:]  # a pad leaves the state at 0
        x_BLD = self.norm(self.embedding(histories_BL))
        for recurrence, feed_forward in zip(self.recurrences, self.feed_forwards, strict=True):
            x_BLD = feed_forward(recurrence(x_BLD, histories_BL != PAD))
        return x_BLD[:, -1]

    def item_biases(self, items_N: Tensor) -> Tensor:
        return self.bias_V[items_N]


def read(folder: Path, catalog: Catalog) -> LRURec:
    """The retriever in `folder`. Raises BadArtifact or one of its kinds."""
    manifest = open_artifact(folder, "retriever", methods=("lrurec",))
    catalog.require(manifest.catalog_fingerprint, f"the retriever in {folder}")
    trained = manifest.config["model"]
    sizes = Sizes(
        users=0,
        items=len(catalog),
        width=trained["width"],
        window=manifest.config["train"]["window"],
        state=trained["state"],
        blocks=trained["blocks"],
    )
    model = LRURec(sizes)
    try:
        found = model.load_state_dict(load_file(folder / "lrurec.safetensors"), strict=False)
    except RuntimeError as error:
        raise BadArtifact(f"{folder}: {error}") from None
    if lacks := [name for name in found.missing_keys if not name.startswith("known_")]:
        raise BadArtifact(f"{folder} lacks the weights {', '.join(lacks)}")
    counts_V = load_file(folder / "popularity.safetensors")["counts"]
    model.learnt(torch.zeros(0, dtype=torch.long), torch.nonzero(counts_V)[:, 0])
    return model.eval()
