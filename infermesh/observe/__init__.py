"""What a node tells about itself: metrics, logs, spans. It reads; nothing here decides or moves a request."""

from infermesh.observe.families import Counter, Distribution, Gauge, Histogram, RecentSample, Value
from infermesh.observe.logs import (
    Logger,
    RequestSampling,
    configure_logs,
    flush_logs,
    get_logger,
    keep_logs_flowing,
)
from infermesh.observe.metrics import Metrics
from infermesh.observe.span_export import SpanCounters, SpanExportConfig, run_span_export
from infermesh.observe.summary import Summary, summarize
from infermesh.observe.tracing import SpanRecord, Tracer
from infermesh.observe.view_gauges import set_view_gauges

__all__ = [
    "Counter",
    "Distribution",
    "Gauge",
    "Histogram",
    "Logger",
    "Metrics",
    "RecentSample",
    "RequestSampling",
    "SpanCounters",
    "SpanExportConfig",
    "SpanRecord",
    "Summary",
    "Tracer",
    "Value",
    "configure_logs",
    "flush_logs",
    "get_logger",
    "keep_logs_flowing",
    "run_span_export",
    "set_view_gauges",
    "summarize",
]
