"""A thread that does its arithmetic alone."""

from __future__ import annotations

import faiss
import torch
from threadpoolctl import threadpool_limits


def alone() -> None:
    """For the calling thread, and for no other: what serves one user at a time is too small to share. Two threads gain
    nothing on an idle machine; where others work as well, they wait for one another, up to half a second."""
    torch.get_num_threads()  # else its first product would set the number anew
    threadpool_limits(1, user_api="openmp")
    faiss.omp_set_num_threads(1)
