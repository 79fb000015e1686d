"""Put a node together: the only place where parts meet that do not know each other.

Reading order: `Node.__init__` makes the parts in the order of their dependence, `run` starts their tasks in one
nursery, `stop` ends them in good order: no new connection, then what runs may finish, then everything is closed.
"""

from __future__ import annotations

import random
import ssl
import time
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from infermesh import __version__
from infermesh.core.fusion import FusionConfig
from infermesh.core.kernel import Kernel, KernelConfig, KernelEvent
from infermesh.core.model.names import NodeId, target_key
from infermesh.core.model.nodes import NodeRecord, NodeState
from infermesh.core.model.state import GpuState, ModelState
from infermesh.core.model.targets import RoutingView
from infermesh.core.routing.admission import Admission
from infermesh.core.routing.budget import HedgeBudget, RetryBudget
from infermesh.core.routing.router import Router
from infermesh.net.body_budget import BodyBudget
from infermesh.net.connection import Connection
from infermesh.net.http2 import Http2ServerConnection
from infermesh.net.listener import Listener, listen
from infermesh.net.peer_tls import PeerTls
from infermesh.net.pool import PoolLimits
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.net.tls import HTTP2_ALPN, TlsEpoch
from infermesh.node.admin_sources import NodeSources
from infermesh.node.config import NodeConfig
from infermesh.node.config_cores import admission_config, routing_config
from infermesh.node.data_ports import PortMakers
from infermesh.node.holdings import Holdings
from infermesh.node.identity import Identity
from infermesh.node.peer_reports import PeerReports
from infermesh.node.runtimes import Runtimes
from infermesh.node.services import NodeServices
from infermesh.node.telemetry import Telemetry
from infermesh.node.websocket_rules import websocket_rules
from infermesh.planes.control.admin_server import serve_admin
from infermesh.planes.control.loop import ControlLoop, NodeHeard
from infermesh.planes.data.busy import Busy
from infermesh.planes.data.errors import error_body
from infermesh.planes.data.frontend import Frontend
from infermesh.planes.data.gate import Gate
from infermesh.planes.data.handshake_faults import handshake_fault
from infermesh.planes.data.identity import RequestNames
from infermesh.planes.data.local import LocalPlane
from infermesh.planes.data.pools import Pools
from infermesh.planes.data.ports import ClientPort, MeshPort
from infermesh.planes.data.router_host import RouterHost
from infermesh.planes.data.scoring_service import ScoringService
from infermesh.planes.signal.liveness import LivenessTiming
from infermesh.planes.signal.mesh_dialer import DialTiming, MeshDialer
from infermesh.planes.signal.publisher import Publisher, PublisherConfig
from infermesh.planes.signal.state_service import StateService
from infermesh.planes.signal.subscriber import SubscriberConfig, run_subscriber
from wire.grpc.service import Service
from wire.http1 import encode_response_head

# Streams that run when the node is told to stop may go on for so long.
STOP_GRACE_S: Final = 30.0
_FOLLOW_AGAIN_S: Final = 1.0  # After a defect: the same one, most likely, is met again.
_UNSENT_LOOK_S: Final = 0.05
_WARNING_S: Final = 1.0  # For clients of HTTP/2 to hear that we stop: what they ask in the meantime is answered.
_TURNED_AWAY_BODY: Final = error_body(503, "too_many_connections", "this port has as many connections as it may")
_TURNED_AWAY: Final = (
    encode_response_head(
        503,
        b"Service Unavailable",
        [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(_TURNED_AWAY_BODY)),
            (b"retry-after", b"1"),
            (b"connection", b"close"),
        ],
    )
    + _TURNED_AWAY_BODY
)


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """Where a running node really listens; None for ports that its roles do not open."""

    client: tuple[str, int] | None
    mesh: tuple[str, int] | None
    admin: tuple[str, int]


class Node:
    """One meshd. `identity` None: a router without peers needs none."""

    def __init__(
        self,
        config: NodeConfig,
        identity: Identity | None,
        rng: random.Random,
        *,
        client_tls: ssl.SSLContext | None = None,
    ) -> None:
        self._config = config
        self._rng = rng
        self._me: NodeId = config.node.id
        self._client_tls = client_tls
        self._epoch = TlsEpoch(identity) if identity is not None else None
        self._stopping = trio.Event()
        self._busy = Busy()
        self._dialers: dict[NodeId, MeshDialer] = {}
        self.telemetry = Telemetry(config, __version__, rng)
        self._log = self.telemetry.log
        self._reactor = Reactor(on_crash=self._report_crash)
        self._timers = Timers(on_crash=self._report_crash)
        self._pools = Pools(
            self._reactor,
            self._timers,
            _pool_limits(config),
            self._tls if identity else None,
            on_handshake_failed=self._report_handshake,
        )
        self._control = ControlLoop(
            Kernel(_kernel_config(config), self._me, _records(config, trio.current_time())),
            publish=self._publish,
            report=self._report_event,
        )
        self._publisher = Publisher(self._log, PublisherConfig(heartbeat_s=config.membership.heartbeat_s))
        self._runtimes = Runtimes(
            config,
            self._pools,
            report=self._on_own_state,
            report_gpu=self._on_own_gpu,
            rng=rng,
            log=self._log,
        )
        self._bodies = BodyBudget(config.client.bodies_bytes_max)
        self._ports = PortMakers(config, self._reactor, self._timers, self.telemetry.metrics, self._log, self._bodies)
        names = RequestNames(rng, config.tracing.sample_ratio)
        self.router = Router(routing_config(config), rng)
        self.frontend = self._make_frontend(names) if config.routes else None
        self._local = self._make_local(names) if config.fronts_runtimes else None
        self._services = NodeServices(self._log, self._mesh_services())
        self.sources = NodeSources(
            config, self._control, self.telemetry, self.router, pools=self._pools, reactor=self._reactor
        )
        self.sources.subscribers = lambda: self._publisher.subscribers
        self.sources.queue_len = self.frontend.gate.queue_len if self.frontend is not None else None

    # --- running ---

    async def run(self, *, task_status: trio.TaskStatus[NodeAddresses] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` or cancellation. Raises ListenFailed before anything is served."""
        config = self._config
        client = self._client_listener() if self.frontend is not None else None
        mesh = self._mesh_listener() if self._epoch is not None else None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reactor.run)
            nursery.start_soon(self._timers.run)
            nursery.start_soon(self.telemetry.run)
            nursery.start_soon(self._control.run)
            self._control.post(NodeHeard(self._me, NodeState.ALIVE, "this node", 0.0))
            if config.fronts_runtimes:
                await nursery.start(self._runtimes.run)
            if config.routes:
                for peer in config.peers:
                    nursery.start_soon(self._follow, NodeId(peer.id))
            admin = await nursery.start(partial(serve_admin, config.admin.listen, self.sources, self.telemetry.log))
            addresses = NodeAddresses(client.address if client else None, mesh.address if mesh else None, admin)
            named = {ClientPort.name: client, MeshPort.name: mesh}
            self.sources.listeners = {name: listener for name, listener in named.items() if listener is not None}
            listeners = list(self.sources.listeners.values())
            async with trio.open_nursery() as ports:
                for listener in listeners:
                    ports.start_soon(listener.run)
                self._say_started(addresses)
                task_status.started(addresses)
                await self._stopping.wait()
                await self._drain(listeners)
                ports.cancel_scope.cancel()
            self._pools.close()
            self._log.info("node_stopped")
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """End in good order: what runs may finish within `STOP_GRACE_S`."""
        self._stopping.set()

    def holdings(self) -> Holdings:
        """What this node holds now; for whoever looks for a leak."""
        view, gate = self._control.view, self.frontend.gate if self.frontend is not None else None
        return Holdings(
            requests=self._busy.requests,
            waiting=sum(map(gate.queue_len, view.eligible)) if gate is not None else 0,
            admitted=sum(map(gate.inflight, view.eligible)) if gate is not None else 0,
            attempts=sum(map(self.router.inflight, view.targets)),
            forwarded=sum(map(self._local.inflight, view.targets)) if self._local is not None else 0,
            subscribers=self._publisher.subscribers,
            following=sum(dialer.sockets for dialer in self._dialers.values()),
            sockets=len(self._reactor),
            unsent_bytes=self._unsent_bytes(),
            accepted={port: listener.connections for port, listener in self.sources.listeners.items()},
            upstream=self._pools.counts(),
        )

    async def _drain(self, listeners: list[Listener]) -> None:
        self._log.info("node_stopping", grace_s=STOP_GRACE_S, in_flight=self._busy.requests)
        self._busy.stopping = True
        self.sources.stopping = True
        self._services.shut_down()
        for listener in listeners:
            listener.close()
        if self.frontend is not None:
            self.frontend.websockets.stop()
        clients = [each for each in self._reactor.served() if isinstance(each, Http2ServerConnection)]
        for client in clients:
            client.wind_down()
        warned_by = trio.current_time() + _WARNING_S

        def unsaid() -> bool:
            """Requests of clients that did not know yet, or last answers that the kernel has not taken."""
            warning = trio.current_time() < warned_by and any(client.winding_down for client in clients)
            return warning or self._busy.requests > 0 or self._unsent_bytes() > 0

        with trio.move_on_after(STOP_GRACE_S):
            await self._busy.wait_idle()
            while unsaid():  # noqa: ASYNC110 - answers are made, or asked for, and it is the kernel that takes them.
                await trio.sleep(_UNSENT_LOOK_S)

    def _unsent_bytes(self) -> int:
        return sum(each.unsent_len for each in self._reactor.served() if isinstance(each, Connection))

    async def _follow(self, peer: NodeId) -> None:
        record = self._control.view.nodes[peer]
        membership = self._config.membership
        dial = DialTiming(dial_deadline_s=self._config.upstream.connect_timeout_s)
        config = SubscriberConfig(
            timing=LivenessTiming(
                heartbeat_s=membership.heartbeat_s,
                suspect_after_s=membership.suspect_after_s,
                dead_after_s=membership.dead_after_s,
            )
        )
        secure = PeerTls(peer, self._tls, self._report_handshake, alpn=HTTP2_ALPN)
        reports = PeerReports(self._control.post, self.telemetry.metrics)
        while True:
            dialer = self._dialers[peer] = MeshDialer(record, self._reactor, self._timers, secure, timing=dial)
            try:
                await run_subscriber(peer, dialer, reports, self._log, rng=self._rng, config=config)
            except Exception:  # noqa: BLE001 - a defect in following one peer; the node serves on with the others.
                self._log.error("state_follower_crashed", peer=peer, exc_info=True)
            await trio.sleep(_FOLLOW_AGAIN_S)

    # --- parts ---

    def _mesh_services(self) -> list[Service]:
        state = StateService(
            self._me,
            self._publisher,
            report=self._on_own_state,
            report_gpu=self._on_own_gpu,
            refused=self._count_refused_report,
        )
        services: list[Service] = [state]
        if self.frontend is not None:
            services.append(ScoringService(self.frontend, self._timers, self._control.post))
        return services

    def _make_frontend(self, names: RequestNames) -> Frontend:
        config = self._config
        host = RouterHost(
            self.router,
            self.telemetry.ledger,
            self._pools,
            self._timers,
            hedges=HedgeBudget(config.hedging.budget),
            retries=RetryBudget(config.retry.budget),
            pseudonym=self._me,
            post=self._control.post,
        )
        return Frontend(
            host,
            Gate(Admission(admission_config(config), self._rng), self._timers),
            names=names,
            limits=config.upstream,
            busy=self._busy,
            attempts_max=config.retry.attempts_max,
            slo_s=config.routing.ttft_slo_ms / 1e3,
            websockets=websocket_rules(config, self._bodies),
        )

    def _make_local(self, names: RequestNames) -> LocalPlane:
        return LocalPlane(
            self._me,
            self._pools,
            self._timers,
            metrics=self.telemetry.metrics,
            tracer=self.telemetry.tracer,
            names=names,
            limits=self._config.upstream,
            busy=self._busy,
            latest=self._runtimes.latest,
        )

    def _client_listener(self) -> Listener:
        section = self._config.client
        assert self.frontend is not None
        port = self._ports.client(self.frontend, self._services.client, self._client_tls)
        sock = listen(section.listen.host, section.listen.port)
        return Listener(
            sock,
            port.serve,
            connections_max=section.connections_max,
            turned_away=_TURNED_AWAY,
            on_turned_away=partial(self._count_turned_away, port.name),
        )

    def _mesh_listener(self) -> Listener:
        section = self._config.mesh
        port = self._ports.mesh(
            self._local,
            self._services.mesh,
            epoch=self._tls,
        )
        sock = listen(section.listen.host, section.listen.port)
        return Listener(
            sock,
            port.serve,
            connections_max=section.connections_max,
            turned_away=b"",
            on_turned_away=partial(self._count_turned_away, port.name),
        )

    # --- what parts say to each other ---

    def _tls(self) -> TlsEpoch:
        assert self._epoch is not None
        return self._epoch

    def _on_own_state(self, state: ModelState) -> None:
        if self._local is not None:
            self._local.on_sample(target_key(state.node, state.model, state.replica), state)
        self._publisher.report(state)
        self._control.post(state)

    def _on_own_gpu(self, state: GpuState) -> None:
        self._publisher.report_gpu(state)
        self._control.post(state)

    def _publish(self, view: RoutingView) -> None:
        if self.frontend is not None:
            self.frontend.install(view)

    def _report_event(self, event: KernelEvent) -> None:
        fields = {name: getattr(event, name) for name in event.__struct_fields__ if name != "at"}
        if "node" in fields:
            fields["peer"] = fields.pop("node")
        self._log.info(event.name, **fields)
        self.sources.count_event(event)

    def _report_crash(self, error: Exception) -> None:
        self._log.error("connection_crashed", exc_info=error)

    def _report_handshake(self, peer: NodeId, why: str) -> None:
        reason = handshake_fault(why)
        self.telemetry.metrics.tls_handshakes_failed.child(port="", reason=reason).value += 1
        self._log.warning("handshake_failed", peer=peer, reason=reason, detail=why)

    def _count_refused_report(self, reason: str) -> None:
        label = "wrong_node" if reason == "other_node" else reason
        self.telemetry.metrics.reports_refused.child(reason=label).value += 1

    def _count_turned_away(self, port: str) -> None:
        self.telemetry.metrics.connections_refused.child(port=port).value += 1

    def _say_started(self, addresses: NodeAddresses) -> None:
        roles = ",".join(sorted(self._config.node.roles))
        ports = {
            name: f"{address[0]}:{address[1]}"
            for name, address in (("client", addresses.client), ("mesh", addresses.mesh), ("admin", addresses.admin))
            if address is not None
        }
        self._log.info("node_started", version=__version__, roles=roles, **ports)


def _records(config: NodeConfig, now: float) -> list[NodeRecord]:
    """Every node that the config names. Static until gossip fills the same port (`core.model.nodes`)."""
    own = NodeRecord(
        node=config.node.id,
        mesh_address=None,
        roles=frozenset(config.node.roles),
        zone=config.node.zone,
        state=NodeState.JOINING,
        since=now,
    )
    peers = [
        NodeRecord(
            node=peer.id,
            mesh_address=peer.address,
            roles=frozenset(peer.roles),
            zone=peer.zone,
            state=NodeState.JOINING,
            since=now,
        )
        for peer in config.peers
    ]
    return [own, *peers]


def _kernel_config(config: NodeConfig) -> KernelConfig:
    routing = config.routing
    return KernelConfig(fusion=FusionConfig(stale_after_s=routing.stale_after_s, forget_after_s=routing.forget_after_s))


def _pool_limits(config: NodeConfig) -> PoolLimits:
    section = config.upstream
    return PoolLimits(
        connections_max=section.connections_max,
        idle_max=section.pool_idle_max,
        idle_timeout_s=section.pool_idle_timeout_s,
        connect_timeout_s=section.connect_timeout_s,
    )


def seeded_rng() -> random.Random:
    """The node's random numbers: seeded by the operating system, never used for secrets."""
    return random.Random(time.time_ns() ^ random.SystemRandom().getrandbits(64))
