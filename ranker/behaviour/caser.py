"""Caser (Tang and Wang, WSDM'18): convolutions over the last items as over an image, without its user vector.

Horizontal filters find runs of items, vertical ones weigh the places (sections 3.2 and 3.3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.behaviour.model import Behaviour, Sizes, item_table

HEIGHTS, HORIZONTAL, VERTICAL, DROPOUT = (2, 3, 4), 16, 4, 0.3


class Caser(Behaviour):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.items = item_table(sizes)
        heights = [height for height in HEIGHTS if height <= sizes.window]
        self.horizontal = nn.ModuleList(nn.Conv2d(1, HORIZONTAL, (height, sizes.width)) for height in heights)
        self.vertical = nn.Conv2d(1, VERTICAL, (sizes.window, 1))
        self.out = nn.Linear(HORIZONTAL * len(heights) + VERTICAL * sizes.width, sizes.width)
        self.dropout = nn.Dropout(DROPOUT)

    def item_vectors(self, items_N: Tensor) -> Tensor:
        return self.items(items_N)

    def user_vectors(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        missing = self.sizes.window - histories_BL.shape[1]
        image_B1LD = self.items(F.pad(histories_BL, (missing, 0)))[:, None]
        runs = [F.relu(convolution(image_B1LD)).amax((2, 3)) for convolution in self.horizontal]
        found_BF = torch.cat([*runs, self.vertical(image_B1LD).flatten(1)], dim=1)
        return self.out(self.dropout(found_BF))
