"""Traces of OpenTelemetry, one through all three services. Without TANDEM_OTLP_ENDPOINT nothing of it is imported.

Spans hold the request id and numbers, never a title, a user id, nor the text of an error, which may name one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.http.problems import REQUEST_ID
from shared.errors import BadInput

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

TRACES = "/v1/traces"
OFF: AbstractContextManager[None] = nullcontext()
_tracer: Tracer | None = None


def configure(endpoint: str | None, service: str) -> None:
    """Once per process, where it starts. Sampling is OpenTelemetry's own: OTEL_TRACES_SAMPLER and so on.

    Raises BadInput where its packages are missing.
    """
    if endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise BadInput(
            f"TANDEM_OTLP_ENDPOINT is set, and {error.name} is not installed: pip install 'tandem-rec[tracing]'"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint.rstrip("/") + TRACES)))
    use(provider)


def use(provider: TracerProvider | None) -> None:
    """Where spans go from now on; None: nowhere."""
    global _tracer
    _tracer = provider.get_tracer("tandem") if provider else None


def is_on() -> bool:
    return _tracer is not None


def span(name: str, **attributes: str | int | float | bool) -> AbstractContextManager[object]:
    """Of one stage, inside the span that is open here."""
    return _open(_tracer, name, attributes) if _tracer else OFF


def past(name: str, ms: float, until_ms_ago: float = 0.0) -> None:
    """A span of what is over already, for stages whose length is known only from their answer."""
    if _tracer:
        end = time.time_ns() - int(until_ms_ago * 1e6)
        _tracer.start_span(name, start_time=end - int(ms * 1e6)).end(end)


def headers() -> dict[str, str]:
    """For a call to the next service: W3C traceparent."""
    if _tracer is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier


class Traced:
    """A middleware: the span of a whole request, as a part of its caller's trace where there is one."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self.app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _tracer is None:
            await self.app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        context = TraceContextTextMapPropagator().extract(carrier)
        about = {
            "tandem.service": self._service,
            "tandem.request_id": scope.get(REQUEST_ID, ""),
            "http.request.method": scope["method"],
        }
        with _open(_tracer, scope["method"], about, context=context, kind=SpanKind.SERVER) as one:

            async def told(message: Message) -> None:
                if message["type"] == "http.response.start":
                    route = str(getattr(scope.get("route"), "path", "unmatched"))
                    one.update_name(f"{scope['method']} {route}")
                    one.set_attributes({"http.route": route, "http.response.status_code": message["status"]})
                await send(message)

            await self.app(scope, receive, told)


@contextmanager
def _open(tracer: Tracer, name: str, attributes: dict[str, Any], **options: Any) -> Iterator[Any]:
    from opentelemetry.trace import Status, StatusCode

    options |= {"record_exception": False, "set_status_on_exception": False}
    with tracer.start_as_current_span(name, attributes=attributes, **options) as one:
        try:
            yield one
        except BaseException as error:
            one.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
