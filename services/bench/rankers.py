"""What each ranker costs a request: time, forward passes and tokens of its language model, memory. Every ranker is
alone in a process of its own; they take turns user by user, so that what else the machine does meets all of them.

Each user is asked about twice: first when nothing is known of it, then again with the same history and new candidates.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from services.bench.machine import load_average, machine
from shared.errors import Unavailable

CANDIDATES = 20
FIRST, AGAIN, TOGETHER = "first", "again", "together"
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """users: after one to warm up."""

    data: Path
    retriever: Path
    rankers: tuple[Path, ...]
    users: int
    backbone: str | None = None
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Question:
    """Of one user; `again` are other candidates than `first`. Pairs of dense index and score."""

    user_id: str
    history: tuple[int, ...]
    first: tuple[tuple[int, float], ...]
    again: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """passes, tokens: that went through the language model."""

    ms: float
    passes: int
    tokens: int


def run(settings: Settings, said: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The report. Raises BadArtifact; Unavailable where a process ends, which says why itself."""
    asked = questions(settings)
    began = load_average()
    trials: dict[str, dict[str, list[Answer]]] = {}
    facts: dict[str, dict[str, Any]] = {}
    with processes(settings) as workers:
        for name, worker in workers.items():
            trials[name] = {FIRST: [], AGAIN: []}
            facts[name] = told(name, worker)
        for number, question in enumerate(asked):
            for kind in (FIRST, AGAIN):
                for name, worker in workers.items():
                    worker.send((question, kind))
                    answer: Answer = told(name, worker)
                    if number:
                        trials[name][kind].append(answer)
            said(f"{number}/{settings.users} users")
        for name, worker in workers.items():
            worker.send(None)
            facts[name]["peak_mib"] = told(name, worker)
    return report_of(settings, trials, facts, _together(settings)) | {"load_average": [began, load_average()]}


def report_of(
    settings: Settings,
    trials: dict[str, dict[str, list[Answer]]],
    facts: dict[str, dict[str, Any]],
    together_mib: float,
) -> dict[str, Any]:
    rankers = {
        name: facts[name] | {kind: _summary(answers) for kind, answers in kinds.items()}
        for name, kinds in trials.items()
    }
    return {
        "machine": machine(),
        "users": settings.users,
        "candidates": CANDIDATES,
        "rankers": rankers,
        TOGETHER: {"rankers": list(rankers), "peak_mib": together_mib},
    }


def _summary(answers: Sequence[Answer]) -> dict[str, float]:
    ms = sorted(answer.ms for answer in answers)
    return {
        "p50_ms": round(statistics.median(ms), 2),
        "p90_ms": round(ms[math.ceil(0.9 * len(ms)) - 1], 2),
        "passes": round(statistics.mean(answer.passes for answer in answers), 2),
        "tokens": round(statistics.mean(answer.tokens for answer in answers), 1),
    }


def questions(settings: Settings) -> list[Question]:
    """Users evenly spaced, each with the retriever's best 40 of what it has not had."""
    from retriever.retrieve import load as load_retriever
    from shared.data.prepared import load
    from shared.data.split import spaced

    data = load(settings.data)
    retriever = load_retriever(settings.retriever, data.catalog).retriever
    chosen = [data.user_ids[place] for place in spaced(len(data.user_ids), settings.users + 1)]
    histories = [data.history(user) for user in chosen]
    made = []
    for history, found in zip(
        histories, retriever.retrieve(histories, 2 * CANDIDATES, [h.items for h in histories]), strict=True
    ):
        pairs = tuple((c.item, c.score) for c in found)
        made.append(Question(history.user_id or "", history.items, pairs[:CANDIDATES], pairs[CANDIDATES:]))
    return made


@contextmanager
def processes(settings: Settings) -> Iterator[dict[str, Connection]]:
    """One for each ranker, by the name that it is served under."""
    from services.loading import SERVED_AS
    from shared.artifact import open_artifact

    context = multiprocessing.get_context("spawn")
    started, workers = [], {}
    try:
        for folder in settings.rankers:
            method = open_artifact(folder, "ranker").method
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, settings, folder), daemon=True)
            process.start()
            there.close()
            started.append(process)
            workers[SERVED_AS.get(method, method)] = here
        yield workers
    finally:
        for worker in workers.values():
            worker.close()
        for process in started:
            _ended(process)


def told(name: str, worker: Connection) -> Any:
    try:
        return worker.recv()
    except EOFError:
        raise Unavailable(f"the process of {name} has ended; its message stands above") from None


def _ended(process: SpawnProcess) -> None:
    """By itself, which lets it clear up; else by force."""
    process.join(timeout=10)
    process.kill()
    process.join()


def _serve(pipe: Connection, settings: Settings, folder: Path) -> None:
    """A worker: facts, then an answer a question, then its peak memory."""
    from ranker.registry import load
    from shared.candidate import Candidate
    from shared.data.prepared import load as load_data
    from shared.history import History

    loaded = load(folder, load_data(settings.data).catalog, settings.backbone, settings.device)
    config = loaded.manifest.config
    size = sum((folder / name).stat().st_size for name in loaded.manifest.files)
    pipe.send({"layers": config["layers"], "backbone": config["backbone"], "artifact_bytes": size})
    with counted() as seen:
        while (message := pipe.recv()) is not None:
            question, kind = message
            candidates = [Candidate(item, score) for item, score in getattr(question, kind)]
            history = History(question.history, question.user_id)
            before = list(seen)
            began = time.perf_counter()
            loaded.ranker.rank([history], [candidates])
            ms = 1000 * (time.perf_counter() - began)
            pipe.send(Answer(ms, seen[0] - before[0], seen[1] - before[1]))
    pipe.send(peak_mib())


@contextmanager
def counted() -> Iterator[list[int]]:
    """Forward passes and tokens of every language model in this process, by whichever forward."""
    from transformers.models.llama.modeling_llama import LlamaModel

    from ranker.engines.lean import LeanLlama

    seen, whole, lean = [0, 0], LlamaModel.forward, LeanLlama.run

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = kwargs.get("inputs_embeds") if kwargs.get("input_ids") is None else kwargs["input_ids"]
        given = args[0] if tokens is None else tokens
        seen[0] += 1
        seen[1] += given.shape[0] * given.shape[1]
        return whole(self, *args, **kwargs)

    def run(self: LeanLlama, x_ND: Any, segments: Any) -> Any:
        seen[0] += 1
        seen[1] += len(x_ND)
        return lean(self, x_ND, segments)

    with ExitStack() as undo:
        undo.callback(setattr, LlamaModel, "forward", whole)
        undo.callback(setattr, LeanLlama, "run", lean)
        LlamaModel.forward, LeanLlama.run = forward, run  # type: ignore[method-assign]
        yield seen


def _together(settings: Settings) -> float:
    """Peak memory of one process with all rankers over one backbone, each asked once."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve_together, args=(there, settings), daemon=True)
    process.start()
    there.close()
    try:
        return float(told(TOGETHER, here))
    finally:
        _ended(process)


def _serve_together(pipe: Connection, settings: Settings) -> None:
    from ranker.backbone import Pool
    from ranker.registry import load
    from shared.candidate import Candidate
    from shared.data.prepared import load as load_data
    from shared.history import History

    data, pool = load_data(settings.data), Pool(settings.device)
    loaded = [load(folder, data.catalog, settings.backbone, settings.device, pool) for folder in settings.rankers]
    [question] = questions(replace(settings, users=0))
    for one in loaded:
        candidates = [Candidate(item, score) for item, score in question.first]
        one.ranker.rank([History(question.history, question.user_id)], [candidates])
    pipe.send(peak_mib())


def peak_mib() -> float:
    """Of this process so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / MIB if sys.platform == "darwin" else peak / 1024, 1)
