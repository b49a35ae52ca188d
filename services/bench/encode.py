"""What a user's kept state saves: a history in whole by the training model and by the encoder, and from what is kept of
it, in this process and in Redis."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import SecretStr

from retriever.incremental import Encoder
from retriever.index import ItemIndex
from retriever.lrurec import LRURec
from retriever.retrieve import LRURecRetriever
from retriever.states import SHARED_FROM, Shared, States
from services.bench.made_up import USERS, made_up, model_of
from services.bench.processes import redis
from services.bench.timing import timed
from services.retrieval.settings import RetrievalSettings
from services.retrieval.states import open_states

ITEMS = 12_000
HISTORIES = (10, 50, 200)
ROOM = 1 << 26
SETTLE_S = 1.0


def encode(seconds: float) -> list[dict[str, Any]]:
    """Milliseconds per history, by its length. seconds: for each length."""
    items_ND, bias_N, _ = made_up(ITEMS)
    model = model_of(items_ND, bias_N)
    plain = LRURecRetriever(model, ItemIndex.build(items_ND, bias_N), HISTORIES[-1])
    rows = []
    with redis() as url:
        shared = open_states(RetrievalSettings(redis_url=SecretStr(url), redis_timeout_ms=1000))
        assert shared is not None
        for length in HISTORIES:
            figures = timed(_ways(model, plain, length, shared), seconds)
            rows.append({"items": length, "ms": {way: each["p50"] for way, each in figures.items()}})
        shared.close()
    return rows


def _ways(model: LRURec, plain: LRURecRetriever, length: int, shared: Shared) -> dict[str, Callable[[int], object]]:
    encoder, new = Encoder(model), itertools.count()
    histories = list(np.random.default_rng(length).integers(1, ITEMS + 1, (USERS, length)))
    before, after = States("bench", ROOM), States("bench", ROOM)
    encoder.encode([history[:-1] for history in histories], before)
    encoder.encode(histories, after)

    def one_more(turn: int) -> list[np.ndarray]:
        """Never the same: its end would be known."""
        return [np.append(histories[turn % USERS][:-1], next(new) % ITEMS + 1)]

    ways: dict[str, Callable[[int], object]] = {
        "whole, by the training model": lambda turn: plain.encode([histories[turn % USERS]]),
        "whole": lambda turn: encoder.encode([histories[turn % USERS]], States("bench", 0)),
        "one more item": lambda turn: encoder.encode(one_more(turn), before),
        "known": lambda turn: encoder.encode([histories[turn % USERS]], after),
    }
    if length > SHARED_FROM:
        encoder.encode([history[:-1] for history in histories], States("bench", 0, shared=shared))
        time.sleep(SETTLE_S)  # its writes are on their way
        ways["one more item, of Redis"] = lambda turn: encoder.encode(one_more(turn), States("bench", 0, shared=shared))
    return ways
