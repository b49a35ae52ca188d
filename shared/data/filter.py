"""Iterative k-core: users and items with too few events go, until all that are left have enough."""

from __future__ import annotations

import numpy as np


def k_core(user_N: np.ndarray, item_N: np.ndarray, min_user: int, min_item: int) -> np.ndarray:
    """Which events stay, as places in ascending order. Codes are from 0; repeated events count each.

    Dropping a user takes events from items and the other way round, so one pass is not enough.
    """
    kept_N = np.arange(len(user_N))
    while len(kept_N):
        user_K, item_K = user_N[kept_N], item_N[kept_N]
        enough_K = (np.bincount(user_K)[user_K] >= min_user) & (np.bincount(item_K)[item_K] >= min_item)
        if enough_K.all():
            break
        kept_N = kept_N[enough_K]
    return kept_N
