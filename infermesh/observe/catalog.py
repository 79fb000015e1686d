"""Every metric that a node shows, in one table: name, kind, help, labels, buckets.

Not the values: those live in `metrics.Metrics`, one attribute per row. Names are a contract with dashboards
and alerts (DESIGN section 4): a row may be added, never renamed in place.

Labels come from `LABELS` only, so that the product of their values stays bounded. The open ones, whose values
somebody outside this process chooses, fold into the value "other" once a family holds `children_max` of them.
"""

from __future__ import annotations

from dataclasses import dataclass

# The one set of DESIGN section 4, then the closed words that a metric may need beside it.
IDENTITY_LABELS = (
    "model",
    "revision",
    "quant",
    "runtime",
    "node",
    "gpu_uuid",
    "mig_profile",
    "tenant",
    "zone",
)
WORD_LABELS = ("reason", "result", "verdict", "phase", "code", "port", "version")
LABELS = frozenset(IDENTITY_LABELS + WORD_LABELS)

# Clients, other operators and runtimes choose the values of these, so their number is not ours to bound.
OPEN_LABELS = frozenset({"model", "revision", "quant", "tenant"})

CHILDREN_MAX = 1024  # 32 models on 32 nodes; a family beyond it says "other" and is counted.


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One family. `name` is the full name on the wire, with `_total` for counters."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    children_max: int = CHILDREN_MAX

    def __post_init__(self) -> None:
        unknown = set(self.labels) - LABELS
        if unknown:
            raise ValueError(f"metric {self.name}: labels {sorted(unknown)} are not in catalog.LABELS")


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterSpec(Spec):
    """Only ever grows while the process lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeSpec(Spec):
    """Goes up and down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramSpec(Spec):
    """A distribution over `buckets`, upper bounds in rising order; the one above all is implied."""

    buckets: tuple[float, ...]

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        if not self.buckets or list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"metric {self.name}: buckets must rise: {self.buckets}")


# 1 ms to 5 min: a cached embedding to a long completion.
SECONDS_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
# 1 us to 10 ms: work of this process itself.
WORK_BUCKETS = (0.000_001, 0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.01)
# Of a timer's lateness: 20 ms is the bound, so the buckets are finest around it.
SLIP_BUCKETS = (0.000_5, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.5)

# --- Inference, as clients see it ---

REQUESTS = CounterSpec(
    name="infermesh_requests_total",
    help="Inference requests taken from clients, each counted once when its head and body were understood.",
    labels=("model",),
)
REQUESTS_IN_FLIGHT = GaugeSpec(
    name="infermesh_requests_in_flight",
    help="Inference requests taken and not yet settled, waiting ones included.",
    labels=("model",),
)
INFERENCES = CounterSpec(
    name="infermesh_inferences_total",
    help="Settled inference requests by result: ok, client_error (4xx of the runtime), failed, cancelled. "
    "Refused ones are in infermesh_requests_rejected_total. node is empty when none was reached.",
    labels=("model", "runtime", "node", "result"),
)
REQUESTS_REJECTED = CounterSpec(
    name="infermesh_requests_rejected_total",
    help="Requests refused by admission: queue_full, deadline, shed, no_capacity, expired, draining.",
    labels=("model", "reason"),
)
HTTP_RESPONSES = CounterSpec(
    name="infermesh_http_responses_total",
    help="Responses begun on the admin port, by status code. What the client port answers is in inferences, "
    "requests_rejected and bad_requests.",
    labels=("port", "code"),
)
BAD_REQUESTS = CounterSpec(
    name="infermesh_bad_requests_total",
    help="Requests refused for what they are: malformed, smuggling, head_oversized, body_oversized, "
    "head_timed_out, body_timed_out, send_timed_out, not_json, unknown_model, unknown_path, truncated, expectation, "
    "bodies_in_flight, loop, websocket_handshake, flood, no_pong, other.",
    labels=("port", "reason"),
)
INFERENCE_LATENCY = HistogramSpec(
    name="infermesh_inference_latency_seconds",
    help="Time from a request's last byte to its answer's last byte, queueing included; completed ones only.",
    labels=("model", "runtime", "node"),
    buckets=SECONDS_BUCKETS,
)
TIME_TO_FIRST_TOKEN = HistogramSpec(
    name="infermesh_time_to_first_token_seconds",
    help="Time from a request's last byte to the first body byte of its answer, queueing included.",
    labels=("model", "runtime", "node"),
    buckets=SECONDS_BUCKETS,
)
TOKENS_GENERATED = CounterSpec(
    name="infermesh_tokens_generated_total",
    help="Output tokens relayed to clients: from usage where the runtime tells it, else counted by event.",
    labels=("model", "runtime", "node"),
)
PROMPT_TOKENS = CounterSpec(
    name="infermesh_prompt_tokens_total",
    help="Prompt tokens of completed requests, where the runtime tells them in usage.",
    labels=("model", "runtime", "node"),
)

# --- Admission, choice, attempts ---

ADMISSION_QUEUE_DEPTH = GaugeSpec(
    name="infermesh_admission_queue_depth",
    help="Requests waiting in this router for a slot of the fleet.",
    labels=("model",),
)
QUEUE_WAIT = HistogramSpec(
    name="infermesh_queue_wait_seconds",
    help="Time that admitted requests waited in this router for a slot of the fleet.",
    labels=("model",),
    buckets=SECONDS_BUCKETS,
)
TARGET_CHOSEN = CounterSpec(
    name="infermesh_router_target_chosen_total",
    help="Attempts dispatched to a node, hedges and retries included.",
    labels=("model", "node"),
)
CHOICE = HistogramSpec(
    name="infermesh_router_choice_seconds",
    help="Work of this process to rank the candidates of one request.",
    buckets=WORK_BUCKETS,
)
UPSTREAM_ATTEMPTS = CounterSpec(
    name="infermesh_upstream_attempts_total",
    help="Ended attempts by verdict. Upstream errors are server_error, connect_failed, broken and timed_out.",
    labels=("node", "verdict"),
)
HEDGES = CounterSpec(
    name="infermesh_hedges_total",
    help="Second copies of slow requests: fired, then won or lost; denied when over budget or nowhere to go.",
    labels=("model", "result"),
)
RETRIES = CounterSpec(
    name="infermesh_retries_total",
    help="Further attempts after one failed before its first byte, by the verdict that caused them.",
    labels=("model", "verdict"),
)
STALE_CONNECTION_RETRIES = CounterSpec(
    name="infermesh_stale_connection_retries_total",
    help="Requests sent again because a kept-alive connection had died before its first response byte.",
    labels=("node",),
)
CANCELLED_UPSTREAM = CounterSpec(
    name="infermesh_cancelled_upstream_total",
    help="Attempts cancelled down to the engine: client_gone, hedge_lost, deadline, shutdown.",
    labels=("node", "reason"),
)
TARGET_EJECTIONS = CounterSpec(
    name="infermesh_target_ejections_total",
    help="Targets taken out of choice for failing, by reason: consecutive_failures, failure_rate.",
    labels=("model", "node", "reason"),
)

# --- Connections ---

CONNECTIONS = GaugeSpec(
    name="infermesh_connections",
    help="Open connections accepted on a port.",
    labels=("port",),
)
CONNECTIONS_REFUSED = CounterSpec(
    name="infermesh_connections_refused_total",
    help="Connections closed at once because the port held its connections_max.",
    labels=("port",),
)
UPSTREAM_CONNECTIONS = GaugeSpec(
    name="infermesh_upstream_connections",
    help="Connections to a node by phase: open (carrying a request) or idle (kept for the next one).",
    labels=("node", "phase"),
)
TLS_HANDSHAKES_FAILED = CounterSpec(
    name="infermesh_tls_handshakes_failed_total",
    help="TLS handshakes without a verified peer at their end: no_certificate, wrong_ca, expired, not_yet_valid, "
    "timed_out, closed, protocol, or what the peer's certificate is not: trust_domain, node, spiffe_id, san, "
    "key_usage, extended_key_usage, weak_key, signer_as_leaf, critical_extension, malformed. port is where they "
    "came in; empty for those this node began.",
    labels=("port", "reason"),
)

# --- Signal plane and view: set from the view when somebody reads /metrics (view_gauges.py) ---

NODE_HEALTHY = GaugeSpec(
    name="infermesh_node_healthy",
    help="1 while the node is alive as seen from here, else 0.",
    labels=("node", "zone"),
)
MODEL_QUEUE_DEPTH = GaugeSpec(
    name="infermesh_model_queue_depth",
    help="Requests waiting in the engine, as last heard. runtime says emulated where no real engine runs.",
    labels=("model", "runtime", "node"),
)
MODEL_RUNNING = GaugeSpec(
    name="infermesh_model_running",
    help="Requests in the engine's batch, as last heard.",
    labels=("model", "runtime", "node"),
)
MODEL_KV_USAGE = GaugeSpec(
    name="infermesh_model_kv_usage_ratio",
    help="Used share of the engine's KV cache, as last heard.",
    labels=("model", "runtime", "node"),
)
MODEL_AVAILABLE = GaugeSpec(
    name="infermesh_model_available",
    help="1 while the model on this node may be chosen, else 0.",
    labels=("model", "runtime", "node"),
)
SIGNAL_AGE = GaugeSpec(
    name="infermesh_signal_age_seconds",
    help="Time since the last state of the model on this node arrived here.",
    labels=("model", "node"),
)
VIEW_VERSION = GaugeSpec(
    name="infermesh_view_version",
    help="Version of the routing view that requests read; grows with every change.",
)
DELTAS_RECEIVED = CounterSpec(
    name="infermesh_deltas_received_total",
    help="State deltas that arrived from a node.",
    labels=("node",),
)
DELTAS_DROPPED = CounterSpec(
    name="infermesh_deltas_dropped_total",
    help="State deltas not used: duplicate, old_sequence, old_incarnation, malformed, wrong_node.",
    labels=("reason",),
)
STATE_SUBSCRIBERS = GaugeSpec(
    name="infermesh_state_subscribers",
    help="Routers that follow this node's state.",
)
REPORTS_REFUSED = CounterSpec(
    name="infermesh_reports_refused_total",
    help="States reported to this node by adapters of their own processes that were not taken: malformed, wrong_node.",
    labels=("reason",),
)
GPU_UTILIZATION = GaugeSpec(name="DCGM_FI_DEV_GPU_UTIL", help="GPU utilization (in %).", labels=("node", "gpu_uuid"))
GPU_MEMORY_USED = GaugeSpec(
    name="DCGM_FI_DEV_FB_USED", help="Framebuffer memory used (in MiB).", labels=("node", "gpu_uuid")
)
GPU_MEMORY_FREE = GaugeSpec(
    name="DCGM_FI_DEV_FB_FREE", help="Framebuffer memory free (in MiB).", labels=("node", "gpu_uuid")
)
GPU_TEMPERATURE = GaugeSpec(name="DCGM_FI_DEV_GPU_TEMP", help="GPU temperature (in C).", labels=("node", "gpu_uuid"))
GPU_POWER = GaugeSpec(name="DCGM_FI_DEV_POWER_USAGE", help="Power draw (in W).", labels=("node", "gpu_uuid"))

# --- This process ---

REACTOR_BATCHES = CounterSpec(
    name="infermesh_reactor_batches_total",
    help="Times that the relay drained its ready connections and gave other tasks a turn.",
)
REACTOR_EVENTS = CounterSpec(
    name="infermesh_reactor_events_total",
    help="Ready connections served by the relay.",
)
TICK_SLIP = HistogramSpec(
    name="infermesh_tick_slip_seconds",
    help="How late a timer of 50 ms fired: what every other task of this process waits behind the relay.",
    buckets=SLIP_BUCKETS,
)
TICK_SLIP = HistogramSpec(
    name="infermesh_tick_slip_seconds",
    help="How late a timer of 50 ms fired: what heartbeats beside the relay feel.",
    buckets=(0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0),
)
MAILBOX_DROPPED = CounterSpec(
    name="infermesh_mailbox_dropped_total",
    help="Outcomes dropped because the control loop's mailbox was full.",
)
LOG_EVENTS_DROPPED = CounterSpec(
    name="infermesh_log_events_dropped_total",
    help="Log lines dropped because whoever reads standard error did not keep up.",
)
SPANS_RECORDED = CounterSpec(
    name="infermesh_spans_recorded_total",
    help="Spans of sampled traces that were kept for export.",
)
SPANS_DROPPED = CounterSpec(
    name="infermesh_spans_dropped_total",
    help="Spans of sampled traces that never reached the collector: buffer_full, export_failed.",
    labels=("reason",),
)
SPANS_EXPORTED = CounterSpec(
    name="infermesh_spans_exported_total",
    help="Spans that the collector took.",
)
METRIC_LABELS_FOLDED = CounterSpec(
    name="infermesh_metric_labels_folded_total",
    help='Label values replaced by "other" because their family was full.',
)
BUILD = GaugeSpec(
    name="infermesh_build_info",
    help="1, labelled with the version and the name of this node.",
    labels=("version", "node"),
)

# Every row above, in the order of this file: a row cannot be forgotten here.
CATALOG: tuple[Spec, ...] = tuple(spec for spec in list(globals().values()) if isinstance(spec, Spec))
