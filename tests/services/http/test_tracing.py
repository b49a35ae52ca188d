"""One trace through gateway, retrieval and ranking, joined over HTTP; and none at all where tracing is off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from services.gateway import app as gateway
from services.gateway.remote import RemoteRanking, RemoteRetrieval
from services.gateway.remote import client as inner
from services.gateway.settings import GatewaySettings
from services.http import tracing
from services.http.settings import HttpSettings
from services.ranking import app as ranking
from services.ranking.settings import RankingSettings
from services.retrieval import app as retrieval
from services.retrieval.settings import RetrievalSettings
from shared.errors import BadInput
from tests import fakes
from tests.services.asgi import client

pytestmark = pytest.mark.anyio
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
Spans = Mapping[str, ReadableSpan]


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(None)


@asynccontextmanager
async def three() -> AsyncIterator[httpx.AsyncClient]:
    """The gateway of three applications that speak HTTP to one another."""
    items = fakes.catalog()
    finder = retrieval.create(RetrievalSettings(), fakes.retrieval_service(items))
    registry = CollectorRegistry()
    ranker = ranking.create(RankingSettings(), fakes.ranking_service(items), registry)
    async with AsyncExitStack() as stack:
        for app in (finder, ranker):
            await stack.enter_async_context(app.router.lifespan_context(app))
        to_finder = inner("http://retrieval", transport=httpx.ASGITransport(finder))
        to_ranker = inner("http://ranking", transport=httpx.ASGITransport(ranker))
        ports = RemoteRetrieval(to_finder), RemoteRanking(to_ranker)
        settings = GatewaySettings(log_level="error")
        app = gateway.compose(settings, fakes.histories(), *ports, AsyncExitStack(), CollectorRegistry())
        yield await stack.enter_async_context(client(app))
        await to_finder.aclose()
        await to_ranker.aclose()


async def recommended(exported: InMemorySpanExporter, http: httpx.AsyncClient, **request: object) -> Spans:
    """The spans of one POST /recommend, by name."""
    exported.clear()
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "r-1"}
    await http.post("/recommend", json={"user_id": "u1", **request}, headers=headers)
    return {span.name: span for span in exported.get_finished_spans()}


def parent(span: ReadableSpan, spans: Spans) -> str | None:
    ids = {one.context.span_id: name for name, one in spans.items() if one.context}
    return ids.get(span.parent.span_id) if span.parent else None


async def test_one_trace_goes_through_all_three_services(exported: InMemorySpanExporter) -> None:
    async with three() as http:
        spans = await recommended(exported, http)
    assert {name: parent(span, spans) for name, span in spans.items()} == {
        "POST /recommend": None,
        "state": "POST /recommend",
        "cache": "POST /recommend",
        "retrieve": "cache",
        "POST /retrieve": "retrieve",
        "rank": "cache",
        "POST /rank": "rank",
        "queue": "POST /rank",
        "batch": "POST /rank",
    }
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {TRACE}


async def test_the_callers_span_is_the_parent_of_ours(exported: InMemorySpanExporter) -> None:
    async with three() as http:
        spans = await recommended(exported, http)
    first = spans["POST /recommend"].parent
    assert first is not None
    assert f"{first.span_id:016x}" == CALLER


async def test_a_hit_asks_nobody(exported: InMemorySpanExporter) -> None:
    async with three() as http:
        await recommended(exported, http)
        spans = await recommended(exported, http)
    assert set(spans) == {"POST /recommend", "state", "cache"}


async def test_every_service_names_the_same_request(exported: InMemorySpanExporter) -> None:
    async with three() as http:
        spans = await recommended(exported, http)
    served = [dict(span.attributes or {}) for name, span in spans.items() if name.startswith("POST")]
    assert {about["tandem.request_id"] for about in served} == {"r-1"}
    assert {about["tandem.service"] for about in served} == {"Tandem", "Tandem retrieval", "Tandem ranking"}


async def test_no_span_holds_a_user_or_a_title(exported: InMemorySpanExporter) -> None:
    async with three() as http:
        spans = await recommended(exported, http, user_id="nobody-must-read-this", include=["metadata"])
        spans = {**spans, **await recommended(exported, http, ranker="llara")}  # an error, which names things
        await http.get("/users/nobody-must-read-this")
    told = "".join(span.to_json() for span in (*spans.values(), *exported.get_finished_spans()))
    assert "GET /users/{user_id:path}" in told
    assert "nobody-must-read-this" not in told
    assert "Title" not in told


def test_without_an_endpoint_nothing_is_imported() -> None:
    """The API may be there all the same: FastAPI 0.165 imports it where it is installed."""
    code = "import sys, services.gateway.app as _; print(*(m for m in sys.modules if 'opentelemetry.' in m))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "opentelemetry.sdk" not in found.stdout
    assert "opentelemetry.exporter" not in found.stdout


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    endpoint = HttpSettings(otlp_endpoint="http://127.0.0.1:4318").otlp_endpoint
    with pytest.raises(BadInput, match=r"tandem-rec\[tracing\]"):
        tracing.configure(endpoint, "tandem")
