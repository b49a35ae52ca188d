"""`tandem`: finds the command, imports only its module, and turns errors into exit codes."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from shared.errors import TandemError


class Command(NamedTuple):
    module: str
    arguments: str
    """The dataclass in `module` that holds the command's arguments; `module.run` takes it."""
    summary: str


COMMANDS = {
    "data prepare": Command("data", "Prepare", "a source of interactions -> a prepared data folder"),
    "train retriever": Command("train", "Retriever", "LRURec and its FAISS index, from a data folder"),
    "train ensemble": Command("train", "Ensemble", "one retriever of several that were trained alike"),
    "train ranker": Command("train", "Ranker", "a language model that orders the retriever's candidates"),
    "train blend": Command("train", "Blend", "the weight between a trained ranker and a retriever, fitted again"),
    "evaluate": Command("evaluate", "Evaluate", "retrieval and ranking metrics on held-out items"),
    "export embeddings": Command("export", "Embeddings", "what CLLM4Rec learnt of users and items, for another model"),
    "results": Command("results", "Results", "the results page out of committed evaluations"),
    "recommend": Command("recommend", "Recommend", "one user's recommendations, here and now"),
    "serve all": Command("serve", "All", "everything in one process"),
    "serve gateway": Command("serve", "Gateway", "POST /recommend, over the two services below"),
    "serve retrieval": Command("serve", "Retrieval", "the first stage"),
    "serve ranking": Command("serve", "Ranking", "the second stage"),
    "stack": Command("stack", "Stack", "Redis and the three services as processes, as compose runs them"),
    "release publish": Command(
        "release", "Publish", "a data folder, a retriever and rankers -> one release of a registry"
    ),
    "release list": Command("release", "List", "the releases of a registry"),
    "release promote": Command("release", "Promote", "which release a process starts with"),
    "fetch": Command("fetch", "Fetch", "releases from a folder, s3:// or https://, checked"),
    "bench gateway": Command("bench", "Gateway", "what the gateway costs beside a bare route"),
    "bench rank": Command("bench_rank", "Rank", "the language model beside the machine's floor"),
    "bench precision": Command("bench_rank", "Precision", "what rounded weights cost a ranker"),
    "bench retrieve": Command("bench_serving", "Retrieve", "retrieval beside raw FAISS on the same index"),
    "bench e2e": Command("bench_serving", "E2e", "POST /recommend over real processes"),
    "bench rankers": Command("bench", "Rankers", "time, tokens and memory of each ranker"),
    "keys add": Command("keys", "Add", "a new API key for a gateway's callers"),
    "keys list": Command("keys", "List", "the API keys of a file"),
    "keys revoke": Command("keys", "Revoke", "a key opens nothing any more"),
    "settings": Command("settings", "Settings", "every environment variable of the services"),
    "demo": Command("demo", "Demo", "all of it on MovieLens, from nothing to an answer"),
}
PACKAGE = "services.commands"
OURS = ("services", "retriever", "ranker", "shared")
EXTRAS = {"matplotlib": "plots", "scipy": "baselines", "implicit": "baselines", "cornac": "baselines"}
"""Which of pyproject.toml's extras brings a package; the others are in `models`."""
INTERRUPTED = 130
USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    name = _command(words)
    if name is None:
        return _help(words)
    try:
        _run(name, words[len(name.split()) :])
    except TandemError as error:
        print(f"tandem {name}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        print(f"tandem {name}: {error.filename}: {error.strerror}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt as error:
        print(f"tandem {name}: {str(error) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _command(words: Sequence[str]) -> str | None:
    return next((name for name in (" ".join(words[:2]), " ".join(words[:1])) if name in COMMANDS), None)


def _run(name: str, words: Sequence[str]) -> None:
    command = COMMANDS[name]
    try:
        module = importlib.import_module(f"{PACKAGE}.{command.module}")
        import tyro

        arguments = getattr(module, command.arguments)
        module.run(tyro.cli(arguments, args=words, prog=f"tandem {name}"))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in OURS:
            raise
        extra = EXTRAS.get(package, "models")
        told = f"it needs the package {package!r}. In Tandem's folder: pip install -e '.[{extra}]'"
        raise TandemError(told) from error


def _help(words: Sequence[str]) -> int:
    """The commands, or those of one group. An unknown word is an error that names the nearest known one."""
    asked = [word for word in words if word not in ("-h", "--help")]
    group = [name for name in COMMANDS if name.split()[: len(asked)] == asked]
    stream = sys.stdout if group else sys.stderr
    if not group:
        near = difflib.get_close_matches(" ".join(asked[:2]), COMMANDS, n=1, cutoff=0.4)
        hint = f" Did you mean `tandem {near[0]}`?" if near else ""
        print(f"tandem: there is no command `{' '.join(asked[:2])}`.{hint}\n", file=stream)
    print("A two-stage recommender: a sequential model retrieves, a language model ranks.\n", file=stream)
    for name in group or COMMANDS:
        print(f"  tandem {name:<18} {COMMANDS[name].summary}", file=stream)
    print("\nEach command has its own --help, with defaults and units.", file=stream)
    return 0 if group and (len(words) > len(asked) or not words) else USAGE


if __name__ == "__main__":
    sys.exit(main())
