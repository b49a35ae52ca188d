"""LRURec: a stack of linear recurrent units over a user's items (Yue et al., WSDM'24, arXiv 2310.02367).

Shapes:  B users  L positions, left padded, oldest first  R the real positions of all users, one after the other
         N blocks  D model width  H complex state width  V catalogue size + 1 (index 0 is PAD)

Only the recurrence sees padding: everything else works on the R real positions, which are a sixth of B L where
histories are short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retriever.scan import scan
from shared.catalog import PAD


@dataclass(frozen=True, kw_only=True)
class LRURecConfig:
    items: int
    """Catalogue size, without PAD."""
    width: int = 64
    state: int = 128
    """Complex numbers per block in a user's state."""
    blocks: int = 2
    dropout: float = 0.2
    """On the embedding and after the feed-forward's inner layer."""
    attention_dropout: float = 0.2
    """On the output of each recurrence and each feed-forward (the paper's second dropout)."""
    min_radius: float = 0.8
    max_radius: float = 0.99
    """|lambda| starts uniformly on this ring."""


class LRU(nn.Module):
    """y = LayerNorm(Dropout(Re(C h)) + x) with h_t = lambda h_(t-1) + gamma (B x_t + b)  (equations 3 and 4)."""

    def __init__(self, config: LRURecConfig) -> None:
        super().__init__()
        radius2_H = torch.empty(config.state).uniform_(config.min_radius**2, config.max_radius**2)
        phase_H = torch.empty(config.state).uniform_(1e-4, 2 * math.pi)
        self.nu_log_H = nn.Parameter(torch.log(-0.5 * torch.log(radius2_H)))
        self.theta_log_H = nn.Parameter(torch.log(phase_H))
        self.gamma_log_H = nn.Parameter(0.5 * torch.log(1 - radius2_H))
        # A complex matrix as a real one of twice the rows (or columns): the same numbers, faster products.
        self.into = nn.Linear(config.width, 2 * config.state)
        self.out = nn.Linear(2 * config.state, config.width)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.norm = nn.LayerNorm(config.width)

    @property
    def lambda_H(self) -> Tensor:
        """Complex, |lambda| < 1 whatever the parameters are: the recurrence cannot blow up."""
        return torch.polar(torch.exp(-torch.exp(self.nu_log_H)), torch.exp(self.theta_log_H))

    def drive(self, x_RD: Tensor) -> Tensor:
        """u_t = gamma (B x_t + b), complex."""
        u_RH2 = self.into(x_RD).unflatten(-1, (-1, 2)) * torch.exp(self.gamma_log_H)[:, None]
        return torch.view_as_complex(u_RH2)

    def read(self, h_RH: Tensor, x_RD: Tensor) -> Tensor:
        y_RD = self.out(torch.view_as_real(h_RH).flatten(-2))
        return self.norm(self.dropout(y_RD) + x_RD)

    def forward(self, x_RD: Tensor, real_BL: Tensor) -> Tensor:
        u_RH = self.drive(x_RD)
        u_BLH = u_RH.new_zeros(*real_BL.shape, u_RH.shape[-1]).index_put((real_BL,), u_RH)
        return self.read(scan(u_BLH, self.lambda_H)[real_BL], x_RD)

    def step(self, h_BH: Tensor, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        h_BH = self.lambda_H * h_BH + self.drive(x_BD)
        return h_BH, self.read(h_BH, x_BD)


class FeedForward(nn.Module):
    def __init__(self, config: LRURecConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)
        self.inner_dropout = nn.Dropout(config.dropout)
        self.dropout = nn.Dropout(config.attention_dropout)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x_D: Tensor) -> Tensor:
        hidden = self.inner_dropout(F.gelu(self.up(x_D)))
        return self.norm(self.dropout(self.down(hidden)) + x_D)


class LRURec(nn.Module):
    """Scores of all items: encode(...) @ item_VD.T + bias_V, with the item table tied to the input embedding."""

    def __init__(self, config: LRURecConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.items + 1, config.width, padding_idx=PAD)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.width)
        self.recurrences = nn.ModuleList(LRU(config) for _ in range(config.blocks))
        self.feed_forwards = nn.ModuleList(FeedForward(config) for _ in range(config.blocks))
        self.bias_V = nn.Parameter(torch.zeros(config.items + 1))
        self._init()

    def _init(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.embedding.weight[PAD].zero_()

    @property
    def item_VD(self) -> Tensor:
        return self.embedding.weight

    def encode(self, items_BL: Tensor) -> Tensor:
        """Hidden states R x D after each real position of left-padded item indices (int64), user by user."""
        real_BL = items_BL != PAD
        x_RD = self.norm(self.dropout(self.embedding(items_BL[real_BL])))
        for recurrence, feed_forward in zip(self.recurrences, self.feed_forwards, strict=True):
            x_RD = feed_forward(recurrence(x_RD, real_BL))
        return x_RD

    def last(self, items_BL: Tensor) -> Tensor:
        """The hidden state B x D after each user's last item; zeros for a user without any."""
        real_B = (items_BL != PAD).sum(dim=1)
        x_RD, some_B = self.encode(items_BL), real_B > 0
        last_BD = x_RD.new_zeros(len(items_BL), self.config.width)
        last_BD[some_B] = x_RD[real_B.cumsum(0)[some_B] - 1]
        return last_BD

    def scores(self, hidden_D: Tensor) -> Tensor:
        """Logits over V for any leading shape. PAD's column is meaningless; callers leave it out."""
        return F.linear(hidden_D, self.embedding.weight, self.bias_V)

    def initial_state(self, batch: int) -> Tensor:
        """B x N x H complex zeros: a user who has done nothing."""
        device = self.bias_V.device
        return torch.zeros(batch, self.config.blocks, self.config.state, dtype=torch.complex64, device=device)

    def step(self, state_BNH: Tensor, items_B: Tensor) -> tuple[Tensor, Tensor]:
        """One more item per user, in O(D H): the new state, and the hidden state B x D that encode would give."""
        x_BD = self.norm(self.dropout(self.embedding(items_B)))
        states = []
        layers = zip(self.recurrences, self.feed_forwards, state_BNH.unbind(1), strict=True)
        for recurrence, feed_forward, h_BH in layers:
            h_BH, x_BD = recurrence.step(h_BH, x_BD)
            x_BD = feed_forward(x_BD)
            states.append(h_BH)
        return torch.stack(states, dim=1), x_BD
