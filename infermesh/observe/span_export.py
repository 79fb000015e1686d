"""Send recorded spans to an OpenTelemetry collector: OTLP over HTTP, in batches, from a worker thread.

The exporter of OpenTelemetry does the encoding and its own retries (and reads its usual environment, such as
OTEL_EXPORTER_OTLP_HEADERS); here are the batching, the accounting and the bound on the shutdown. A collector that
is slow, wrong or gone costs spans, which are counted, and one log line per outage; never a request.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import msgspec
import trio

from infermesh.observe.families import Value
from infermesh.observe.logs import Logger
from infermesh.observe.tracing import SpanRecord, Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

TRACES_PATH = "/v1/traces"
_SERVER_SPANS = frozenset({"request"})
_CLIENT_SPANS = frozenset({"compute"})


class SpanExportConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`send_timeout_s` bounds one batch with its retries, `shutdown_flush_s` all that is left at the end."""

    endpoint: str  # http://collector:4318 or with a path; /v1/traces where it has none.
    node: str
    version: str
    batch_spans_max: int = 512
    period_s: float = 2.0
    send_timeout_s: float = 5.0
    shutdown_flush_s: float = 2.0


@dataclass(frozen=True, slots=True)
class SpanCounters:
    exported: Value
    failed: Value


class Sender(Protocol):
    """What the worker thread calls: blocks, for `send_timeout_s` at most. Returns why it failed, or nothing."""

    def send(self, spans: Sequence[SpanRecord]) -> str: ...
    def stop(self) -> None: ...


class _Batches:
    """What became of the batches: written by the worker thread, read by the task."""

    def __init__(self) -> None:
        self.pending = 0
        self.ended: deque[tuple[int, str]] = deque()


async def run_span_export(
    tracer: Tracer, config: SpanExportConfig, counters: SpanCounters, log: Logger, sender: Sender | None = None
) -> None:
    """Runs until cancelled, then sends what is left for at most `shutdown_flush_s`."""
    limiter = trio.CapacityLimiter(1)  # One connection; an abandoned send keeps the next one waiting.
    batches = _Batches()
    outage = _Outage(log, config.endpoint)
    if sender is None:
        # Built in the thread: the imports of the exporter take 0.3 s.
        try:
            sender = await trio.to_thread.run_sync(OtlpSender, config, limiter=limiter)
        except Exception as error:  # noqa: BLE001 - a wrong OTEL_... variable must not keep the node down.
            tracer.enabled = False
            log.error("span_export_unavailable", endpoint=config.endpoint, reason=error)
            return
    try:
        while True:
            await tracer.wait_many(config.period_s)
            await _send_all(tracer, config.batch_spans_max, sender, batches, limiter)
            _account(batches, counters, outage)
    finally:
        with trio.move_on_after(config.shutdown_flush_s, shield=True):
            await _send_all(tracer, config.batch_spans_max, sender, batches, limiter)
            # The thread that a cancel left behind holds the limiter until it is done.
            async with limiter:
                pass
        sender.stop()
        _account(batches, counters, outage)
        counters.failed.value += batches.pending + len(tracer)
        tracer.take(len(tracer))


async def _send_all(
    tracer: Tracer, spans_max: int, sender: Sender, batches: _Batches, limiter: trio.CapacityLimiter
) -> None:
    while len(tracer):
        await trio.to_thread.run_sync(
            _send, tracer, spans_max, sender, batches, abandon_on_cancel=True, limiter=limiter
        )


def _send(tracer: Tracer, spans_max: int, sender: Sender, batches: _Batches) -> None:
    # Taken in the thread: what is taken is being sent, whatever cancel comes between.
    spans = tracer.take(spans_max)
    batches.pending += len(spans)
    try:
        reason = sender.send(spans)
    except Exception as error:  # noqa: BLE001 - the edge of the thread: a library's fault must not end the daemon.
        reason = f"{type(error).__name__}: {error}"
    batches.ended.append((len(spans), reason))


class _Outage:
    """One log line when exports begin to fail, one when they work again."""

    def __init__(self, log: Logger, endpoint: str) -> None:
        self._log = log
        self._endpoint = endpoint
        self._lost = 0

    def failed(self, spans: int, reason: str) -> None:
        if not self._lost:
            self._log.warning("span_export_failed", endpoint=self._endpoint, reason=reason, see="tracing.endpoint")
        self._lost += spans

    def worked(self) -> None:
        if self._lost:
            self._log.info("span_export_resumed", endpoint=self._endpoint, spans_lost=self._lost)
        self._lost = 0


def _account(batches: _Batches, counters: SpanCounters, outage: _Outage) -> None:
    while batches.ended:
        spans, reason = batches.ended.popleft()
        batches.pending -= spans
        if reason:
            counters.failed.value += spans
            outage.failed(spans, reason)
        else:
            counters.exported.value += spans
            outage.worked()


# --- In the worker thread ---


def traces_url(endpoint: str) -> str:
    """The collector's URL as the exporter wants it: a bare one gets the standard path."""
    return endpoint.rstrip("/") + TRACES_PATH if urlsplit(endpoint).path in ("", "/") else endpoint


class _LastMessage(logging.Handler):
    """The exporter reports why it failed to `logging` only; we want it in our own line, once per outage."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


class OtlpSender:
    """The OTLP/HTTP exporter of OpenTelemetry, given our records."""

    def __init__(self, config: SpanExportConfig) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._last = _LastMessage()
        logger = logging.getLogger("opentelemetry.exporter.otlp.proto.http")
        logger.handlers = [self._last]
        logger.propagate = False
        self._exporter = OTLPSpanExporter(traces_url(config.endpoint), timeout=config.send_timeout_s)
        self._resource = Resource.create(
            {
                "service.name": "infermesh",
                "service.instance.id": config.node,
                "service.version": config.version,
            }
        )
        self._scope = InstrumentationScope("infermesh", config.version)

    def send(self, spans: Sequence[SpanRecord]) -> str:
        from opentelemetry.sdk.trace.export import SpanExportResult

        self._last.text = ""
        converted = [self._convert(span) for span in spans]
        if self._exporter.export(converted) is SpanExportResult.SUCCESS:
            return ""
        return self._last.text or "refused by the collector"

    def stop(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # Ends the wait between retries of a thread that was left behind.

    def _convert(self, span: SpanRecord) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        trace_id = int(span.trace_id, 16)
        sampled = TraceFlags(TraceFlags.SAMPLED)
        kind = SpanKind.INTERNAL
        if span.name in _SERVER_SPANS:
            kind = SpanKind.SERVER
        elif span.name in _CLIENT_SPANS:
            kind = SpanKind.CLIENT
        error = span.attributes.get("error")
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=sampled),
            parent=SpanContext(trace_id, int(span.parent_id, 16), is_remote=True, trace_flags=sampled)
            if span.parent_id
            else None,
            resource=self._resource,
            attributes=dict(span.attributes),
            kind=kind,
            status=Status(StatusCode.ERROR, str(error)) if error else Status(StatusCode.UNSET),
            start_time=span.start_unix_ns,
            end_time=span.end_unix_ns,
            instrumentation_scope=self._scope,
        )
