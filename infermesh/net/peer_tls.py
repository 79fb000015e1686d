"""TLS towards one node's mesh port, for pools: whoever answers there must be that very node.

Contexts are those of the newest epoch at each handshake, so that a renewed identity is used by the next connection.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable

import trio

from infermesh.core.model.names import NodeId
from infermesh.net.tls import HTTP1_ALPN, PeerRefused, TlsEpoch, admit_peer
from infermesh.net.tls_session import TlsSession


class PeerTls:
    def __init__(
        self,
        node: NodeId,
        epoch: Callable[[], TlsEpoch],
        on_failed: Callable[[NodeId, str], None],
        *,
        alpn: str = HTTP1_ALPN,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._epoch = epoch
        self._on_failed = on_failed
        self._alpn = alpn
        self._unix_time = unix_time

    def wrap(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self._epoch().connect(self._node, incoming, outgoing, alpn=self._alpn)

    def admit(self, tls: TlsSession) -> None:
        domain, now_unix = self._epoch().identity.trust_domain, self._unix_time()
        try:
            peer = admit_peer(tls.object, trust_domain=domain, expected_node=self._node, now_unix=now_unix)
        except PeerRefused:
            self._epoch().forget(self._node)
            raise
        tls.retire_at = trio.current_time() + peer.not_after - now_unix

    def remember(self, tls: TlsSession) -> None:
        self._epoch().remember(self._node, tls.object)

    def failed(self, why: str) -> None:
        self._on_failed(self._node, why)
