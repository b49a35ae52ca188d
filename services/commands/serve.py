"""`tandem serve all|gateway|retrieval|ranking`. Artifacts are loaded and tested before a port is bound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from shared.errors import BadInput

Folders = Annotated[tuple[Path, ...], tyro.conf.UseAppendAction]
MAKE_KEYS = "Make keys with `tandem keys add` and name their file in TANDEM_API_KEYS_FILE"
SIGN_CALLS = "Set TANDEM_INTERNAL_SECRET to the same value here and at the gateway"


@dataclass(frozen=True, kw_only=True)
class All:
    """Serve everything in one process, without a network between the stages."""

    data: Path
    """The prepared data folder."""
    retriever: Path
    """The retriever's artifact."""
    ranker: Folders = ()
    """A ranker's artifact; repeat it to serve several, the first is the default. Without any, the retriever's
    order is the answer."""
    backbone: str | None = None
    """Another language model than the one named in the ranker's manifest: a name or a folder."""
    device: str = "auto"
    """auto, cpu or cuda: where the language model runs."""
    host: str = "127.0.0.1"
    """The address to listen at; another one than the loopback needs API keys."""
    port: int = 8000
    """The port to listen at."""


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Serve POST /recommend over a retrieval and a ranking service; TANDEM_* variables say where they are."""

    data: Path | None = None
    """The prepared data folder whose users have stored histories. Without it every request brings its own."""
    host: str = "127.0.0.1"
    """The address to listen at; another one than the loopback needs API keys."""
    port: int = 8000
    """The port to listen at."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Serve the first stage."""

    data: Path
    """The prepared data folder."""
    retriever: Path
    """The retriever's artifact."""
    host: str = "127.0.0.1"
    """The address to listen at; another one than the loopback needs TANDEM_INTERNAL_SECRET."""
    port: int = 8001
    """The port to listen at."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Serve the second stage."""

    data: Path
    """The prepared data folder."""
    ranker: Folders
    """A ranker's artifact; repeat it to serve several. The first is the default."""
    backbone: str | None = None
    """Another language model than the one named in the ranker's manifest: a name or a folder."""
    device: str = "auto"
    """auto, cpu or cuda: where the language model runs."""
    host: str = "127.0.0.1"
    """The address to listen at; another one than the loopback needs TANDEM_INTERNAL_SECRET."""
    port: int = 8002
    """The port to listen at."""


def run(args: All | Gateway | Retrieval | Ranking) -> None:
    """Until SIGTERM or Ctrl-C. Raises BadArtifact before anything listens."""
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
    from services.http import logs
    from services.http.door import require_closed
    from services.http.settings import read
    from services.loading import ranking_service, retrieval_service
    from services.process import serve
    from services.ranking.settings import RankingSettings
    from shared.data.prepared import load

    settings = read(GatewaySettings)
    require_closed(args.host, settings.api_keys_file is not None, settings.allow_open, MAKE_KEYS)
    logs.configure(settings.log_level)
    prepared = load(args.data)
    retrieval = retrieval_service(args.retriever, prepared.catalog)
    registry = CollectorRegistry()
    ranking = ranking_service(
        args.ranker, prepared.catalog, read(RankingSettings), registry, args.backbone, args.device
    )
    if not args.ranker:
        settings = settings.model_copy(update={"default_ranker": "retrieval"})
    app = embedded.create(settings, MemoryHistories(prepared), retrieval, ranking, registry)
    serve(app, args.host, args.port, settings)


def _gateway(args: Gateway) -> None:
    from services.gateway.app import create
    from services.gateway.settings import GatewaySettings
    from services.gateway.stores import NoHistories, open_histories
    from services.http import logs
    from services.http.door import require_closed
    from services.http.settings import read
    from services.process import serve

    settings = read(GatewaySettings)
    require_closed(args.host, settings.api_keys_file is not None, settings.allow_open, MAKE_KEYS)
    logs.configure(settings.log_level)
    histories = open_histories(args.data) if args.data else NoHistories()
    serve(create(settings, histories), args.host, args.port, settings)


def _retrieval(args: Retrieval) -> None:
    from services.http import logs
    from services.http.door import require_closed
    from services.http.settings import read
    from services.loading import retrieval_service
    from services.process import serve
    from services.retrieval.app import create
    from services.retrieval.settings import RetrievalSettings
    from shared.data.prepared import load

    settings = read(RetrievalSettings)
    require_closed(args.host, settings.internal_secret is not None, settings.allow_open, SIGN_CALLS)
    logs.configure(settings.log_level)
    service = retrieval_service(args.retriever, load(args.data).catalog)
    serve(create(settings, service), args.host, args.port, settings)


def _ranking(args: Ranking) -> None:
    from prometheus_client import CollectorRegistry

    from services.http import logs
    from services.http.door import require_closed
    from services.http.settings import read
    from services.loading import ranking_service
    from services.process import serve
    from services.ranking.app import create
    from services.ranking.settings import RankingSettings
    from shared.data.prepared import load

    if not args.ranker:
        raise BadInput("a ranking service without a ranker ranks nothing: give --ranker at least once")
    settings = read(RankingSettings)
    require_closed(args.host, settings.internal_secret is not None, settings.allow_open, SIGN_CALLS)
    logs.configure(settings.log_level)
    registry = CollectorRegistry()
    catalog = load(args.data).catalog
    service = ranking_service(args.ranker, catalog, settings, registry, args.backbone, args.device)
    serve(create(settings, service, registry), args.host, args.port, settings)
