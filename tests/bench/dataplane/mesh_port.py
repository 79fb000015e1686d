"""A GPU node's mesh port as a router sees it, at a few microseconds a message: the backend of the mTLS rows.

Not a GPU node: no meshd runs behind it, so that the router's cost is measured against a cheap peer. It speaks
TLS 1.3 with the node's certificate and demands the router's, streams its model's state and a heartbeat, answers
pings, and puts the node's load on each response, as a real one does.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.planes.signal.codec import Heartbeat, encode_heartbeat, encode_model_state
from infermesh.planes.signal.publisher import PING_PATH, STREAM_CONTENT_TYPE, SUBSCRIBE_PATH
from tests.bench.dataplane.backend import Connection, Fleet, Listener, Pages
from tests.bench.dataplane.loop import Loop, Ticker
from tests.bench.dataplane.messages import MODEL, chunk

STATE_EVERY_S = 0.25  # A busy adapter's cadence; each state also counts as a heartbeat.
SLOTS = 4096


class MeshPort:
    """One fake GPU node."""

    def __init__(self, loop: Loop, fleet: Fleet, folder: Path) -> None:
        """`folder` holds the node's certificate, key and CA, and is named like the node."""
        self._node = NodeId(folder.name)
        self._sequence = 0
        self._incarnation = int(time.time())
        self._subscribers: list[Connection] = []
        # State is told by the stream; a router has no business with the runtime's own pages here.
        pages = Pages(
            metrics_text=b"", response_fields=b"x-infermesh-load: i=%d;q=0;r=8;k=0.1250\r\n" % self._incarnation
        )
        pages.long_posts[SUBSCRIBE_PATH.encode()] = self._subscribe
        pages.add(PING_PATH.encode(), b"application/x-protobuf", b"")
        self.port = Listener(loop, fleet, pages, _server_context(folder)).port
        Ticker(loop, STATE_EVERY_S, self._report)

    def _subscribe(self, connection: Connection) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % STREAM_CONTENT_TYPE
        connection.write(head + chunk(self._frame()))
        self._subscribers.append(connection)

    def _report(self) -> None:
        self._subscribers = [connection for connection in self._subscribers if not connection.closed]
        frame = chunk(self._frame()) if self._subscribers else b""
        for connection in self._subscribers:
            connection.write(frame)

    def _frame(self) -> bytes:
        self._sequence += 1
        state = ModelState(
            node=self._node,
            model=ModelName(MODEL),
            runtime="vllm",
            incarnation=self._incarnation,
            sequence=self._sequence,
            source_time=time.time(),
            lifecycle=Lifecycle.READY,
            running=8,
            slots=SLOTS,
            kv_usage=0.125,
            kv_capacity_tokens=307_328,
            ttft_ms=60.0,
            itl_ms=17.0,
            prompt_tokens_per_s=4000.0,
            generation_tokens_per_s=450.0,
        )
        return encode_model_state(state) + encode_heartbeat(Heartbeat(self._sequence, time.time()))


def _server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "node.pem", folder / "node.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    return context
