"""Connection pools to everything that a node may send a request to: mesh ports of peers, runtimes of its own.

A peer's requests all go through its one mesh port, whatever the model, so its targets share a pool. The
identity of whoever answers there is checked before the first request goes out: it must be that very node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from infermesh.core.model.names import NodeId, TargetKey
from infermesh.core.model.nodes import NodeState
from infermesh.core.model.targets import RoutingView, Target
from infermesh.net.http2 import CLIENT_CONFIG
from infermesh.net.http2.pool import Http2Pool
from infermesh.net.peer_tls import PeerTls
from infermesh.net.pool import PoolLimits, UpstreamPool
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.net.tls import HTTP2_ALPN, TlsEpoch
from wire.limits import HTTP2_HEADER_BLOCK_BYTES_MAX

# Heads of answers are as large as a runtime may send them, and what the node adds to them.
_PEER_CONFIG: Final = replace(CLIENT_CONFIG, list_bytes_max=HTTP2_HEADER_BLOCK_BYTES_MAX)


class Pools:
    """Owned by the data plane. `install` follows the view: pools of nodes that left are closed."""

    def __init__(
        self,
        reactor: Reactor,
        timers: Timers,
        limits: PoolLimits,
        epoch: Callable[[], TlsEpoch] | None,
        *,
        on_handshake_failed: Callable[[NodeId, str], None],
    ) -> None:
        self._reactor = reactor
        self._timers = timers
        self._limits = limits
        self._epoch = epoch
        self._on_handshake_failed = on_handshake_failed
        self._peers: dict[NodeId, UpstreamPool] = {}
        self._runtimes: dict[TargetKey, UpstreamPool] = {}
        self._grpc_peers: dict[NodeId, Http2Pool] = {}
        self._grpc_runtimes: dict[TargetKey, Http2Pool] = {}
        self._states: dict[NodeId, NodeState] = {}

    def add_runtime(
        self, key: TargetKey, address: tuple[str, int], *, grpc_address: tuple[str, int] | None = None
    ) -> UpstreamPool:
        """A runtime on this node, spoken to in plain HTTP/1.1; `grpc_address` is where it speaks gRPC, if it does."""
        if grpc_address is not None:
            # One runtime serves many models; its connections are shared by all of them.
            same = next((pool for pool in self._grpc_runtimes.values() if pool.address == grpc_address), None)
            self._grpc_runtimes[key] = same or Http2Pool(grpc_address, self._reactor, self._timers, limits=self._limits)
        pool = UpstreamPool(address, self._reactor, self._timers, limits=self._limits)
        self._runtimes[key] = pool
        return pool

    def of(self, target: Target) -> UpstreamPool | None:
        """The pool that leads to a target; None when its node is unknown by now."""
        return self._runtimes.get(target.key) or self._peers.get(target.node)

    def runtime(self, key: TargetKey) -> UpstreamPool | None:
        return self._runtimes.get(key)

    def grpc_to(self, target: Target) -> Http2Pool | None:
        """What leads to a target for calls over HTTP/2."""
        return self._grpc_runtimes.get(target.key) or self._grpc_peers.get(target.node)

    def grpc_runtime(self, key: TargetKey) -> Http2Pool | None:
        return self._grpc_runtimes.get(key)

    def install(self, view: RoutingView) -> None:
        for node, record in view.nodes.items():
            if record.mesh_address is None or self._epoch is None:
                continue
            if node not in self._peers:
                address = (record.mesh_address.host, record.mesh_address.port)
                self._peers[node] = self._peer_pool(node, address)
                self._grpc_peers[node] = self._grpc_pool(node, address)
            if record.state is NodeState.DEAD and self._states.get(node) is not NodeState.DEAD:
                why = f"the node is held for dead: {record.reason}"
                self._peers[node].doubt(why)
                self._grpc_peers[node].doubt(why)
            self._states[node] = record.state
        for node in [node for node in self._peers if node not in view.nodes]:
            self._peers.pop(node).close()
            self._grpc_peers.pop(node).close()
            self._states.pop(node, None)

    def counts(self) -> dict[str, tuple[int, int]]:
        """(in use, idle) connections by node, whatever they speak; runtimes under their target's key."""
        found: dict[str, tuple[int, int]] = {}
        seen: set[Http2Pool] = set()
        pools: list[tuple[str, UpstreamPool | Http2Pool]] = [
            *self._peers.items(),
            *self._runtimes.items(),
            *self._grpc_peers.items(),
            *self._grpc_runtimes.items(),
        ]
        for name, pool in pools:
            if isinstance(pool, Http2Pool):
                if pool in seen:
                    continue  # A runtime's models share one.
                seen.add(pool)
            used, idle = found.get(name, (0, 0))
            found[name] = (used + pool.open_len - pool.idle_len, idle + pool.idle_len)
        return dict(sorted(found.items()))

    def close(self) -> None:
        for pool in [*self._peers.values(), *self._runtimes.values()]:
            pool.close()
        for calls in [*self._grpc_peers.values(), *self._grpc_runtimes.values()]:
            calls.close()

    def _peer_pool(self, node: NodeId, address: tuple[str, int]) -> UpstreamPool:
        assert self._epoch is not None
        secure = PeerTls(node, self._epoch, self._on_handshake_failed)
        return UpstreamPool(address, self._reactor, self._timers, limits=self._limits, secure=secure)

    def _grpc_pool(self, node: NodeId, address: tuple[str, int]) -> Http2Pool:
        assert self._epoch is not None
        secure = PeerTls(node, self._epoch, self._on_handshake_failed, alpn=HTTP2_ALPN)
        return Http2Pool(address, self._reactor, self._timers, limits=self._limits, secure=secure, config=_PEER_CONFIG)
