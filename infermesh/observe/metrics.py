"""The metrics of one process: a family per row of the catalog, and the two formats that scrapers read.

One instance per process, made by `node/assemble` and handed to every part that counts. Not thread-safe: the
thread that runs trio bumps and renders. Bump costs are in `families`.

    counter = metrics.hedges.child(model="m", result="fired")    # once
    counter.value += 1                                           # on the path
"""

from __future__ import annotations

from prometheus_client.process_collector import ProcessCollector

from infermesh.core.model.names import NodeId
from infermesh.observe import catalog
from infermesh.observe.exposition import (
    OPENMETRICS,
    TEXT,
    AnyFamily,
    FamiliesCollector,
    render_families,
    render_foreign,
    wants_openmetrics,
)
from infermesh.observe.families import Counter, Gauge, Histogram, RecentSample
from infermesh.observe.logs import dropped_lines


class Metrics:
    """Every family of the catalog as an attribute, plus the recent first-token times for exact quantiles."""

    def __init__(self, node: NodeId, version: str) -> None:
        self.metric_labels_folded = Counter(catalog.METRIC_LABELS_FOLDED, None)
        folded = self.metric_labels_folded.child()

        self.requests = Counter(catalog.REQUESTS, folded)
        self.requests_in_flight = Gauge(catalog.REQUESTS_IN_FLIGHT, folded)
        self.inferences = Counter(catalog.INFERENCES, folded)
        self.requests_rejected = Counter(catalog.REQUESTS_REJECTED, folded)
        self.http_responses = Counter(catalog.HTTP_RESPONSES, folded)
        self.bad_requests = Counter(catalog.BAD_REQUESTS, folded)
        self.inference_latency = Histogram(catalog.INFERENCE_LATENCY, folded)
        self.time_to_first_token = Histogram(catalog.TIME_TO_FIRST_TOKEN, folded)
        self.tokens_generated = Counter(catalog.TOKENS_GENERATED, folded)
        self.prompt_tokens = Counter(catalog.PROMPT_TOKENS, folded)

        self.admission_queue_depth = Gauge(catalog.ADMISSION_QUEUE_DEPTH, folded)
        self.queue_wait = Histogram(catalog.QUEUE_WAIT, folded)
        self.target_chosen = Counter(catalog.TARGET_CHOSEN, folded)
        self.choice = Histogram(catalog.CHOICE, folded)
        self.upstream_attempts = Counter(catalog.UPSTREAM_ATTEMPTS, folded)
        self.hedges = Counter(catalog.HEDGES, folded)
        self.retries = Counter(catalog.RETRIES, folded)
        self.stale_connection_retries = Counter(catalog.STALE_CONNECTION_RETRIES, folded)
        self.cancelled_upstream = Counter(catalog.CANCELLED_UPSTREAM, folded)
        self.target_ejections = Counter(catalog.TARGET_EJECTIONS, folded)

        self.connections = Gauge(catalog.CONNECTIONS, folded)
        self.connections_refused = Counter(catalog.CONNECTIONS_REFUSED, folded)
        self.upstream_connections = Gauge(catalog.UPSTREAM_CONNECTIONS, folded)
        self.tls_handshakes_failed = Counter(catalog.TLS_HANDSHAKES_FAILED, folded)

        self.node_healthy = Gauge(catalog.NODE_HEALTHY, folded)
        self.model_queue_depth = Gauge(catalog.MODEL_QUEUE_DEPTH, folded)
        self.model_running = Gauge(catalog.MODEL_RUNNING, folded)
        self.model_kv_usage = Gauge(catalog.MODEL_KV_USAGE, folded)
        self.model_available = Gauge(catalog.MODEL_AVAILABLE, folded)
        self.signal_age = Gauge(catalog.SIGNAL_AGE, folded)
        self.view_version = Gauge(catalog.VIEW_VERSION, folded)
        self.deltas_received = Counter(catalog.DELTAS_RECEIVED, folded)
        self.deltas_dropped = Counter(catalog.DELTAS_DROPPED, folded)
        self.state_subscribers = Gauge(catalog.STATE_SUBSCRIBERS, folded)
        self.reports_refused = Counter(catalog.REPORTS_REFUSED, folded)
        self.gpu_utilization = Gauge(catalog.GPU_UTILIZATION, folded)
        self.gpu_memory_used = Gauge(catalog.GPU_MEMORY_USED, folded)
        self.gpu_memory_free = Gauge(catalog.GPU_MEMORY_FREE, folded)
        self.gpu_temperature = Gauge(catalog.GPU_TEMPERATURE, folded)
        self.gpu_power = Gauge(catalog.GPU_POWER, folded)

        self.reactor_batches = Counter(catalog.REACTOR_BATCHES, folded)
        self.reactor_events = Counter(catalog.REACTOR_EVENTS, folded)
        self.tick_slip = Histogram(catalog.TICK_SLIP, folded)
        self.tick_slip = Histogram(catalog.TICK_SLIP, folded)
        self.mailbox_dropped = Counter(catalog.MAILBOX_DROPPED, folded)
        self.log_events_dropped = Counter(catalog.LOG_EVENTS_DROPPED, folded)
        self.spans_recorded = Counter(catalog.SPANS_RECORDED, folded)
        self.spans_dropped = Counter(catalog.SPANS_DROPPED, folded)
        self.spans_exported = Counter(catalog.SPANS_EXPORTED, folded)
        self.build = Gauge(catalog.BUILD, folded)
        self.build.child(version=version, node=node).value = 1

        self.recent_time_to_first_token = RecentSample()
        self._process = ProcessCollector(registry=None)

    def families(self) -> tuple[AnyFamily, ...]:
        """In the order of the catalog."""
        held = {
            family.spec.name: family
            for family in vars(self).values()
            if isinstance(family, Counter | Gauge | Histogram)
        }
        return tuple(held[spec.name] for spec in catalog.CATALOG)

    def collector(self) -> FamiliesCollector:
        return FamiliesCollector(self.families())

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """(body, content type) for a reader that accepts `accept`."""
        self.log_events_dropped.child().value = dropped_lines()
        openmetrics = wants_openmetrics(accept)
        lines = render_families(self.families(), openmetrics=openmetrics)
        lines += render_foreign(self._process.collect(), openmetrics=openmetrics)
        if openmetrics:
            lines.append("# EOF")
        lines.append("")
        return "\n".join(lines).encode("utf-8", "replace"), OPENMETRICS if openmetrics else TEXT
