"""Every key of a node's config: one frozen value per section, each key with its type, bounds, default and words.

This is the table: `mesh config explain` prints it, `config_keys` reads it, and a key exists nowhere else. Units end
the names. Not here: relations between keys (`config_checks`) and what the cores make of them (`config_cores`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from infermesh.core.model.names import NodeId
from infermesh.core.model.nodes import Address, Role
from infermesh.core.model.profiles import PROFILES
from infermesh.core.routing.admission_config import AdmissionConfig
from infermesh.core.routing.router_config import POLICY_NAMES, RoutingConfig
from infermesh.core.trust import node_id_fault, trust_domain_fault
from infermesh.node.config_keys import Key
from wire.limits import HTTP1_HEAD_BYTES_MAX

_ROUTING = RoutingConfig()
_ADMISSION = AdmissionConfig()
_SECONDS_MAX = 86_400.0
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
# The first two are asked by the vLLM adapter, the others by the KServe one; each further kind comes with its adapter.
KSERVE_KINDS = ("triton", "kserve")
RUNTIME_KINDS = ("vllm", "emulated", *KSERVE_KINDS)


def _seconds(doc: str, high: float = _SECONDS_MAX) -> Key:
    return Key(doc=doc, unit="s", low=0, above=True, high=high)


def _node_fault(text: str) -> str:
    fault = node_id_fault(text)
    return fault and f"is no node id: {fault}"


def _domain_fault(text: str) -> str:
    fault = trust_domain_fault(text)
    return fault and f"is no trust domain: {fault}"


def _url_fault(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        return f"is no URL: {error}"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "is no URL of a server; allowed: http://host:port or https://host:port, a path may follow"
    if parts.username is not None or parts.query or parts.fragment:
        return "must hold neither user, query nor fragment: it is shown in logs"
    return ""


def _model_fault(text: str) -> str:
    if len(text) > 128 or not text.isprintable() or any(character.isspace() for character in text):
        return f"names a model {text[:32]!r} with blanks, control characters or over 128 characters"
    return ""


def _origin_fault(text: str) -> str:
    if text == "*":
        return ""
    scheme, _, host = text.partition("://")
    if scheme not in ("http", "https") or not host or any(mark in host for mark in "/?#@ ") or not text.isascii():
        return f"{text[:40]!r} is no origin; allowed: https://host or https://host:port, without a path, or *"
    return ""


def _zone_fault(text: str) -> str:
    return "" if len(text) <= 64 and text.isprintable() else "is longer than 64 characters or not printable"


class NodeSection(msgspec.Struct, frozen=True, kw_only=True):
    id: Annotated[
        NodeId, Key(doc="Name of this node: the last part of its SPIFFE id, unique in the mesh.", fault=_node_fault)
    ]
    roles: Annotated[
        frozenset[Role],
        Key(
            doc="What this node does: router (takes client traffic), gpu (fronts runtimes), edge (a router near users)."
        ),
    ] = frozenset({Role.ROUTER})
    zone: Annotated[
        str, Key(doc="Where it stands, for people and metrics; free text.", empty=True, fault=_zone_fault)
    ] = ""
    data_dir: Annotated[
        Path,
        Key(
            doc="Folder of its identity and state; relative to the config file.", default_text='"." (beside this file)'
        ),
    ] = Path()


class ClientSection(msgspec.Struct, frozen=True, kw_only=True):
    listen: Annotated[
        Address,
        Key(doc="Where clients connect (HTTP/1.1, HTTP/2, gRPC, WebSocket).", unit="host:port", port_zero=True),
    ] = Address("127.0.0.1", 8080)
    certificate_file: Annotated[
        Path, Key(doc="Certificate chain for TLS on this port; with it comes client.key_file.", empty=True)
    ] = Path()
    key_file: Annotated[Path, Key(doc="Private key of client.certificate_file.", empty=True)] = Path()
    plaintext: Annotated[
        bool, Key(doc="Serve clients without TLS on the same port as well, where there is a certificate.")
    ] = False
    h2c_upgrade: Annotated[
        bool,
        Key(
            doc="Take `Upgrade: h2c` in plain text. Behind a proxy that passes it on but checks paths, turn it off: "
            "requests after the first are then past its rules."
        ),
    ] = True
    head_bytes_max: Annotated[
        int, Key(doc="Largest request head; beyond it 431.", unit="bytes", low=1024, high=HTTP1_HEAD_BYTES_MAX)
    ] = HTTP1_HEAD_BYTES_MAX
    body_bytes_max: Annotated[
        int, Key(doc="Largest request body; beyond it 413.", unit="bytes", low=1024, high=1 << 30)
    ] = 16_777_216
    bodies_bytes_max: Annotated[
        int,
        Key(
            doc="Request bodies that all connections of this node keep together; beyond it 503.",
            unit="bytes",
            low=1024,
            high=1 << 40,
        ),
    ] = 1_073_741_824
    connections_max: Annotated[
        int, Key(doc="Open client connections; further ones are closed at once.", low=1, high=1_000_000)
    ] = 10_000
    head_timeout_s: Annotated[float, _seconds("From the first byte of a head to its last.")] = 10.0
    body_timeout_s: Annotated[float, _seconds("For a request body, longer for a large one.")] = 30.0
    idle_timeout_s: Annotated[float, _seconds("A kept-alive connection without a request.")] = 75.0
    send_timeout_s: Annotated[float, _seconds("A client that takes no byte of its answer.")] = 30.0


class WebSocketSection(msgspec.Struct, frozen=True, kw_only=True):
    connections_max: Annotated[
        int, Key(doc="Open inference WebSockets; further ones are closed with 1013.", low=1, high=1_000_000)
    ] = 4096
    origins: Annotated[
        tuple[str, ...],
        Key(
            doc='Pages that may open one besides those of the same host, such as "https://chat.example"; "*": any.',
            fault=_origin_fault,
        ),
    ] = ()
    ping_interval_s: Annotated[float, _seconds("Of silence, after which a client is asked whether it lives.")] = 20.0
    ping_timeout_s: Annotated[float, _seconds("For its answer; a client that gives none is cut off.")] = 20.0
    deflate: Annotated[bool, Key(doc="Agree to permessage-deflate with clients that offer it.")] = True


class MeshSection(msgspec.Struct, frozen=True, kw_only=True):
    listen: Annotated[Address, Key(doc="Where other nodes connect (mTLS only).", unit="host:port", port_zero=True)] = (
        Address("127.0.0.1", 7443)
    )
    advertise: Annotated[
        Address | None,
        Key(doc="Address under which others reach it, where that is not mesh.listen.", unit="host:port", empty=True),
    ] = None
    connections_max: Annotated[
        int, Key(doc="Open connections of other nodes; further ones are closed at once.", low=1, high=1_000_000)
    ] = 4096
    handshake_timeout_s: Annotated[float, _seconds("From accept to the end of the TLS handshake.", 600)] = 5.0


class AdminSection(msgspec.Struct, frozen=True, kw_only=True):
    listen: Annotated[
        Address,
        Key(
            doc="/metrics, /healthz, /v1/... Asks nobody who they are: keep it on loopback or a trusted network.",
            unit="host:port",
            port_zero=True,
        ),
    ] = Address("127.0.0.1", 9090)


class TrustSection(msgspec.Struct, frozen=True, kw_only=True):
    domain: Annotated[
        str,
        Key(doc="SPIFFE trust domain, as given to `mesh init`.", empty=True, fault=_domain_fault),
    ] = ""
    ca_file: Annotated[
        Path, Key(doc="Certificate of the mesh's CA.", empty=True, default_text="ca.pem in node.data_dir")
    ] = Path()
    certificate_file: Annotated[
        Path, Key(doc="Certificate of this node.", empty=True, default_text="node.pem in node.data_dir")
    ] = Path()
    key_file: Annotated[
        Path, Key(doc="Private key of this node.", empty=True, default_text="node.key in node.data_dir")
    ] = Path()


class PeerSection(msgspec.Struct, frozen=True, kw_only=True):
    id: Annotated[NodeId, Key(doc="Id of another node.", fault=_node_fault)]
    address: Annotated[Address, Key(doc="Its mesh port.", unit="host:port")]
    roles: Annotated[frozenset[Role], Key(doc="What it does.")] = frozenset({Role.GPU})
    zone: Annotated[str, Key(doc="Where it stands.", empty=True, fault=_zone_fault)] = ""


class RuntimeSection(msgspec.Struct, frozen=True, kw_only=True):
    kind: Annotated[str, Key(doc="Which API and metrics it has.", choices=RUNTIME_KINDS)]
    url: Annotated[str, Key(doc="Base URL, without /v1 or /v2.", fault=_url_fault)]
    slots: Annotated[int, Key(doc="Sequences that it runs at once (vLLM: max_num_seqs).", low=1, high=65_536)] = 256
    grpc_url: Annotated[
        Address | None,
        Key(
            doc="Its gRPC port, in plain text (triton, kserve); empty: gRPC requests are not sent to it.",
            unit="host:port",
            empty=True,
        ),
    ] = None
    metrics_url: Annotated[
        str,
        Key(
            doc="Its metrics page (triton: port 8002); empty: its queue is not known. For triton and kserve.",
            empty=True,
            fault=_url_fault,
        ),
    ] = ""
    models: Annotated[
        tuple[str, ...],
        Key(
            doc="What it serves, where it has no repository index (OVMS) or not all of it is meant. For triton and "
            "kserve; default: what its index says.",
            fault=_model_fault,
            items_max=256,
        ),
    ] = ()


class EmulatorSection(msgspec.Struct, frozen=True, kw_only=True):
    models: Annotated[
        tuple[str, ...],
        Key(doc="Models that the emulated engine serves; each on an engine of its own.", fault=_model_fault),
    ] = ("emulated-8b",)
    profile: Annotated[str, Key(doc="Which hardware it costs like.", choices=tuple(sorted(PROFILES)))] = "h100"
    speed: Annotated[float, Key(doc="Factor on the profile's speed.", unit="x", low=0, above=True, high=10_000)] = 1.0
    listen: Annotated[Address, Key(doc="Where it listens, for this node only.", unit="host:port", port_zero=True)] = (
        Address("127.0.0.1", 0)
    )


class RoutingSection(msgspec.Struct, frozen=True, kw_only=True):
    policy: Annotated[str, Key(doc="How a target is chosen.", choices=POLICY_NAMES)] = _ROUTING.policy
    ttft_slo_ms: Annotated[
        float,
        Key(
            doc="Time to first byte for requests without x-infermesh-deadline-ms; 0: none.",
            unit="ms",
            low=0,
            high=8.64e7,
        ),
    ] = 0.0
    near_tie_ms: Annotated[
        float, Key(doc="Scores nearer than twice this are a tie, broken at random.", unit="ms", low=0, high=10_000)
    ] = _ROUTING.near_tie_ms
    near_tie_share: Annotated[
        float, Key(doc="The same as a share of the score, added.", unit="share", low=0, high=1)
    ] = _ROUTING.near_tie_share
    stale_after_s: Annotated[float, _seconds("A target not heard of for this long is not chosen.", 3600)] = 3.0
    forget_after_s: Annotated[
        float,
        _seconds("A target not heard of for this long is forgotten."),
    ] = 300.0


class AdmissionSection(msgspec.Struct, frozen=True, kw_only=True):
    queue_len_max: Annotated[
        int, Key(doc="Requests waiting per model; beyond it 429. 0: none waits.", low=0, high=1_000_000)
    ] = _ADMISSION.queue_len_max
    queue_wait_max_s: Annotated[
        float,
        _seconds("Longest wait for a slot; who would wait longer gets 429.", 3600),
    ] = _ADMISSION.queue_wait_max_s
    overcommit: Annotated[
        float, Key(doc="Requests let in per slot of the fleet.", unit="x", low=0, above=True, high=100)
    ] = _ADMISSION.overcommit
    retry_after_min_s: Annotated[float, _seconds("Least Retry-After of a 429.", 3600)] = _ADMISSION.retry_after_min_s
    retry_after_max_s: Annotated[float, _seconds("Largest Retry-After of a 429.", 3600)] = _ADMISSION.retry_after_max_s


class HedgingSection(msgspec.Struct, frozen=True, kw_only=True):
    enabled: Annotated[bool, Key(doc="Send a second copy of a slow request, before its first byte.")] = True
    budget: Annotated[float, Key(doc="Extra work at most, as a share of requests.", unit="share", low=0, high=1)] = 0.05
    floor_ms: Annotated[float, Key(doc="No second copy earlier than this.", unit="ms", low=0, high=600_000)] = (
        _ROUTING.hedge_floor_ms
    )


class RetrySection(msgspec.Struct, frozen=True, kw_only=True):
    attempts_max: Annotated[int, Key(doc="Attempts of one request, the first included.", low=1, high=10)] = 3
    budget: Annotated[float, Key(doc="Retries at most, as a share of requests.", unit="share", low=0, high=1)] = 0.2


class UpstreamSection(msgspec.Struct, frozen=True, kw_only=True):
    connect_timeout_s: Annotated[float, _seconds("To open a connection, TLS included.", 600)] = 2.0
    head_timeout_s: Annotated[float, _seconds("From dispatch to the first response byte.")] = 300.0
    stall_timeout_s: Annotated[float, _seconds("Between two pieces of a response.")] = 60.0
    pool_idle_max: Annotated[int, Key(doc="Idle connections kept per node.", low=0, high=100_000)] = 64
    pool_idle_timeout_s: Annotated[float, _seconds("An idle connection is closed after this.")] = 60.0
    connections_max: Annotated[int, Key(doc="Open connections per node.", low=1, high=100_000)] = 1024


class MembershipSection(msgspec.Struct, frozen=True, kw_only=True):
    heartbeat_s: Annotated[float, Key(doc="How often a node says that it lives.", unit="s", low=0.01, high=60)] = 0.5
    suspect_after_s: Annotated[
        float,
        Key(doc="Silence after which a node is used only if nothing else is there.", unit="s", low=0.02, high=600),
    ] = 1.5
    dead_after_s: Annotated[
        float, Key(doc="Silence after which a node is not used.", unit="s", low=0.03, high=3600)
    ] = 3.0


class TracingSection(msgspec.Struct, frozen=True, kw_only=True):
    endpoint: Annotated[
        str,
        Key(doc="OTLP/HTTP collector, such as http://127.0.0.1:4318; empty: no tracing.", empty=True, fault=_url_fault),
    ] = ""
    sample_ratio: Annotated[
        float, Key(doc="Share of requests traced where the client did not decide.", unit="share", low=0, high=1)
    ] = 0.01


class LogsSection(msgspec.Struct, frozen=True, kw_only=True):
    level: Annotated[str, Key(doc="Least level that is written.", choices=LOG_LEVELS)] = "info"
    request_sample_ratio: Annotated[
        float,
        Key(doc="Share of successful requests that get a line; failed ones always do.", unit="share", low=0, high=1),
    ] = 0.01


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole. `origins` says where each value came from, by dotted key; what is not in it is a default."""

    node: NodeSection
    client: ClientSection
    websocket: WebSocketSection
    mesh: MeshSection
    admin: AdminSection
    trust: TrustSection
    peers: tuple[PeerSection, ...]
    runtimes: tuple[RuntimeSection, ...]
    emulator: EmulatorSection
    routing: RoutingSection
    admission: AdmissionSection
    hedging: HedgingSection
    retry: RetrySection
    upstream: UpstreamSection
    membership: MembershipSection
    tracing: TracingSection
    logs: LogsSection
    origins: Mapping[str, str]

    @property
    def routes(self) -> bool:
        """True where clients are served."""
        return not self.node.roles.isdisjoint((Role.ROUTER, Role.EDGE))

    @property
    def fronts_runtimes(self) -> bool:
        return Role.GPU in self.node.roles

    @property
    def meshed(self) -> bool:
        """True where other nodes are part of it: then it needs an identity and its mesh port."""
        return bool(self.peers) or not self.routes


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "node": NodeSection,
    "client": ClientSection,
    "websocket": WebSocketSection,
    "mesh": MeshSection,
    "admin": AdminSection,
    "trust": TrustSection,
    "emulator": EmulatorSection,
    "routing": RoutingSection,
    "admission": AdmissionSection,
    "hedging": HedgingSection,
    "retry": RetrySection,
    "upstream": UpstreamSection,
    "membership": MembershipSection,
    "tracing": TracingSection,
    "logs": LogsSection,
}
# Sections that may be there several times: [[peers]], [[runtimes]].
TABLES: dict[str, type[msgspec.Struct]] = {"peers": PeerSection, "runtimes": RuntimeSection}
ENTRIES_MAX = {"peers": 1000, "runtimes": 64}
