"""One thread works alone, and nobody else has to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import faiss
import pytest
import torch

from retriever.threads import alone


def counts() -> tuple[int, int]:
    return torch.get_num_threads(), faiss.omp_get_max_threads()


def test_only_the_thread_that_asks_works_alone() -> None:
    before = counts()
    if before == (1, 1):
        pytest.skip("one thread is all that there is here")
    with ThreadPoolExecutor(1, initializer=alone) as worker:
        assert worker.submit(counts).result() == (1, 1)
        with ThreadPoolExecutor(1) as other:
            assert other.submit(counts).result() == before
    assert counts() == before
