"""`tandem serve all|gateway|retrieval|ranking`. Artifacts are loaded and tested before a port is bound."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from shared.errors import BadInput

if TYPE_CHECKING:
    from services.http.settings import HttpSettings
    from services.ranking.settings import RankingSettings
    from services.releases.settings import ReleaseSettings

Settings = TypeVar("Settings", bound="ReleaseSettings")
Engine = Literal["local", "vllm"] | None
Folders = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction]
MAKE_KEYS = "Make keys with `tandem keys add` and name their file in TANDEM_API_KEYS_FILE"
NO_RANKER = "a ranking service without a ranker ranks nothing: give --ranker at least once, or --registry"
SIGN_CALLS = "Set TANDEM_INTERNAL_SECRET to the same value here and at the gateway"

PORTS = 65_535


@dataclass(frozen=True, kw_only=True)
class All:
    """Serve everything in one process, without a network between the stages: the current release of a registry, or the
    folders that are named."""

    registry: Path | None = None
    """The folder of releases; also what can be loaded later. Default: TANDEM_REGISTRY."""
    data: Path | None = None
    """The prepared data folder."""
    retriever: Path | None = None
    """The retriever's artifact."""
    ranker: Folders = ()
    """A ranker's artifact; repeat it to serve several, the first is the default. Without any, the retriever's
    order is the answer."""
    backbone: str | None = None
    """Another language model than the one named in the ranker's manifest: a name or a folder."""
    device: str = "auto"
    """auto, cpu or cuda: where the language model runs."""
    engine: Engine = None
    """What runs it: local, or vllm where that is installed. Default: TANDEM_ENGINE."""
    host: str = "127.0.0.1"
    """The address to listen at; another one than the loopback needs API keys."""
    port: int = 8000
    """The port to listen at."""


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Serve POST /recommend over a retrieval and a ranking service; TANDEM_* variables say where they are."""

    data: Path | None = None
    """The prepared data folder whose users have stored histories. Without it every request brings its own."""
    registry: Path | None = None
    """In place of --data: that of the current release of this folder of releases."""
    host: str = "127.0.0.1"
    """The address to listen at; another one than the loopback needs API keys."""
    port: int = 8000
    """The port to listen at."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Serve the first stage: of a registry's current release, or the folders that are named."""

    registry: Path | None = None
    """The folder of releases; also what can be loaded later. Default: TANDEM_REGISTRY."""
    data: Path | None = None
    """The prepared data folder."""
    retriever: Path | None = None
    """The retriever's artifact, or a recllm ranker's."""
    backbone: str | None = None
    """For recllm: another language model than the one named in its manifest, a name or a folder."""
    device: str = "auto"
    """For recllm: auto, cpu or cuda."""
    host: str = "127.0.0.1"
    """The address to listen at; another one than the loopback needs TANDEM_INTERNAL_SECRET."""
    port: int = 8001
    """The port to listen at."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Serve the second stage: of a registry's current release, or the folders that are named."""

    registry: Path | None = None
    """The folder of releases; also what can be loaded later. Default: TANDEM_REGISTRY."""
    data: Path | None = None
    """The prepared data folder."""
    ranker: Folders = ()
    """A ranker's artifact; repeat it to serve several. The first is the default."""
    backbone: str | None = None
    """Another language model than the one named in the ranker's manifest: a name or a folder."""
    device: str = "auto"
    """auto, cpu or cuda: where the language model runs."""
    engine: Engine = None
    """What runs it: local, or vllm where that is installed. Default: TANDEM_ENGINE."""
    host: str = "127.0.0.1"
    """The address to listen at; another one than the loopback needs TANDEM_INTERNAL_SECRET."""
    port: int = 8002
    """The port to listen at."""


def run(args: All | Gateway | Retrieval | Ranking) -> None:
    """Until SIGTERM or Ctrl-C. Raises BadInput and BadArtifact before anything listens."""
    if not 0 <= args.port <= PORTS:
        raise BadInput(f"--port {args.port}: 0 (any that is free) to {PORTS}")
    match args:
        case All():
            _all(args)
        case Gateway():
            _gateway(args)
        case Retrieval():
            _retrieval(args)
        case Ranking():
            _ranking(args)


def _all(args: All) -> None:
    from prometheus_client import CollectorRegistry

    from services import embedded
    from services.gateway.settings import GatewaySettings
    from services.gateway.stores import MemoryHistories
    from services.http.settings import read
    from services.process import serve
    from services.ranking.settings import RankingSettings
    from services.releases import start
    from services.releases.shelf import Catalogs
    from services.retrieval.settings import RetrievalSettings

    settings, stages = read(GatewaySettings), _run_by(args.engine, _with(args.registry, read(RankingSettings)))
    _begin(args.host, settings.api_keys_file is not None, settings, MAKE_KEYS)
    catalogs, metrics = Catalogs(), CollectorRegistry()
    release, data = (None, args.data) if args.data else start.current(stages)
    prepared, first = catalogs.prepared(data), _with(args.registry, read(RetrievalSettings))
    retrieval = start.retrieval(args.data, args.retriever, first, catalogs, args.device, args.backbone, release)
    ranking = start.ranking(args.data, args.ranker, stages, catalogs, metrics, args.backbone, args.device, release)
    if args.data and not args.ranker:
        settings = settings.model_copy(update={"default_ranker": "retrieval"})
    app = embedded.create(settings, MemoryHistories(prepared), retrieval, ranking, metrics)
    serve(app, args.host, args.port, settings)


def _gateway(args: Gateway) -> None:
    from services.gateway.app import create
    from services.gateway.settings import GatewaySettings
    from services.gateway.stores import NoHistories, open_histories
    from services.http.settings import read
    from services.process import serve

    settings = read(GatewaySettings)
    _begin(args.host, settings.api_keys_file is not None, settings, MAKE_KEYS)
    data = args.data or (_current_data(args.registry) if args.registry else None)
    serve(create(settings, open_histories(data) if data else NoHistories()), args.host, args.port, settings)


def _retrieval(args: Retrieval) -> None:
    from services.http.settings import read
    from services.process import serve
    from services.releases import start
    from services.releases.shelf import Catalogs
    from services.retrieval.app import create
    from services.retrieval.settings import RetrievalSettings

    settings = _with(args.registry, read(RetrievalSettings))
    _begin(args.host, settings.internal_secret is not None, settings, SIGN_CALLS)
    releases = start.retrieval(args.data, args.retriever, settings, Catalogs(), args.device, args.backbone)
    serve(create(settings, releases), args.host, args.port, settings)


def _ranking(args: Ranking) -> None:
    from prometheus_client import CollectorRegistry

    from services.http.settings import read
    from services.process import serve
    from services.ranking.app import create
    from services.ranking.settings import RankingSettings
    from services.releases import start
    from services.releases.shelf import Catalogs

    if args.data and not args.ranker:
        raise BadInput(NO_RANKER)
    settings = _run_by(args.engine, _with(args.registry, read(RankingSettings)))
    _begin(args.host, settings.internal_secret is not None, settings, SIGN_CALLS)
    metrics = CollectorRegistry()
    releases = start.ranking(args.data, args.ranker, settings, Catalogs(), metrics, args.backbone, args.device)
    serve(create(settings, releases, metrics), args.host, args.port, settings)


def _begin(host: str, locked: bool, settings: HttpSettings, how: str) -> None:
    """What comes before anything is loaded: may it listen there, its log, and variables that were misspelt."""
    from services.commands.settings import misspelt
    from services.http import logs
    from services.http.door import require_closed

    require_closed(host, locked, settings.allow_open, how)
    logs.configure(settings.log_level)
    for said in misspelt(os.environ):
        logs.log.warning(said)


def _current_data(registry: Path) -> Path:
    from shared.registry import Registry

    return Registry(registry).current_data()


def _with(registry: Path | None, settings: Settings) -> Settings:
    """What the command line says comes before what the environment says."""
    return settings.model_copy(update={"registry": registry}) if registry else settings


def _run_by(engine: Engine, settings: RankingSettings) -> RankingSettings:
    return settings.model_copy(update={"engine": engine}) if engine else settings
