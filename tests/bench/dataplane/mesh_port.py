"""A GPU node's mesh port as a router sees it, at a few microseconds a message: the backend of the mTLS rows.

Not a GPU node: no meshd runs behind it, so that the router's cost is measured against a cheap peer. It speaks TLS 1.3
with the node's certificate and demands the router's. Where HTTP/2 is negotiated it is the state service, in gRPC
by hand on the `h2` package: it streams its model's state and a heartbeat, and answers pings. Over HTTP/1.1 it answers
requests and puts the node's load on each response, as a real one does.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.planes.signal.codec import Heartbeat, heartbeat_message, model_state_message
from tests.bench.dataplane.backend import Connection, Fleet, Listener, Pages
from tests.bench.dataplane.loop import Loop, Ticker
from tests.bench.dataplane.messages import MODEL
from wire.grpc import encode_message
from wire.proto.infermesh.state.v1.state_grpc import STATE_SERVICE_PING, STATE_SERVICE_SUBSCRIBE
from wire.proto.infermesh.state.v1.state_pb2 import PingResponse, StateDelta

STATE_EVERY_S = 0.25  # A busy adapter's cadence; each state also counts as a heartbeat.
SLOTS = 4096


class MeshPort:
    """One fake GPU node."""

    def __init__(self, loop: Loop, fleet: Fleet, folder: Path) -> None:
        """`folder` holds the node's certificate, key and CA, and is named like the node."""
        self._node = NodeId(folder.name)
        self._sequence = 0
        self._incarnation = int(time.time())
        self._subscribers: list[_GrpcConnection] = []
        # State is told by the stream; a router has no business with the runtime's own pages here.
        pages = Pages(
            metrics_text=b"", response_fields=b"x-infermesh-load: i=%d;q=0;r=8;k=0.1250\r\n" % self._incarnation
        )
        pages.http2 = lambda connection: _GrpcConnection(connection, self).take
        self.port = Listener(loop, fleet, pages, _server_context(folder)).port
        Ticker(loop, STATE_EVERY_S, self._report)

    def subscribe(self, subscriber: _GrpcConnection) -> None:
        subscriber.say(self._frames())
        self._subscribers.append(subscriber)

    def _report(self) -> None:
        self._subscribers = [subscriber for subscriber in self._subscribers if subscriber.subscribed]
        frames = self._frames() if self._subscribers else b""
        for subscriber in self._subscribers:
            subscriber.say(frames)

    def _frames(self) -> bytes:
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
        deltas = (
            StateDelta(model_state=model_state_message(state)),
            StateDelta(heartbeat=heartbeat_message(Heartbeat(self._sequence, time.time()))),
        )
        for delta in deltas:
            delta.epoch, delta.position = self._incarnation, self._sequence
        return b"".join(encode_message(delta.SerializeToString()) for delta in deltas)


class _GrpcConnection:
    """One connection in HTTP/2: at most one subscriber, and any number of pings."""

    def __init__(self, connection: Connection, node: MeshPort) -> None:
        self._connection = connection
        self._node = node
        self._machine = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._pings: set[int] = set()
        self._stream_id = 0
        self._machine.initiate_connection()
        self._flush()

    @property
    def subscribed(self) -> bool:
        return self._stream_id > 0 and not self._connection.closed

    def take(self, data: bytes) -> bytes:
        try:
            events = self._machine.receive_data(data)
        except h2.exceptions.ProtocolError:
            self._flush()
            self._connection.close()
            return b""
        for event in events:
            match event:
                case h2.events.RequestReceived(stream_id=int() as stream_id, headers=headers):
                    self._open(stream_id, dict(headers or ())[b":path"].decode())
                case h2.events.DataReceived(stream_id=int() as stream_id, flow_controlled_length=int() as length):
                    if length:
                        self._machine.acknowledge_received_data(length, stream_id)
                case h2.events.StreamEnded(stream_id=int() as stream_id) if stream_id in self._pings:
                    self._answer_ping(stream_id)
                case h2.events.StreamReset(stream_id=stream_id):
                    self._stream_id = 0 if stream_id == self._stream_id else self._stream_id
                case _:
                    pass
        self._flush()
        return b""

    def say(self, frames: bytes) -> None:
        if self._machine.local_flow_control_window(self._stream_id) >= len(frames):
            self._machine.send_data(self._stream_id, frames)
            self._flush()

    def _open(self, stream_id: int, path: str) -> None:
        known = path in (STATE_SERVICE_SUBSCRIBE.path, STATE_SERVICE_PING.path)
        fields = [(":status", "200"), ("content-type", "application/grpc")]
        self._machine.send_headers(
            stream_id, fields if known else [*fields, ("grpc-status", "12")], end_stream=not known
        )
        if path == STATE_SERVICE_PING.path:
            self._pings.add(stream_id)
        elif known:
            self._stream_id = stream_id
            self._node.subscribe(self)

    def _answer_ping(self, stream_id: int) -> None:
        self._pings.discard(stream_id)
        self._machine.send_data(stream_id, encode_message(PingResponse().SerializeToString()))
        self._machine.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)

    def _flush(self) -> None:
        if data := self._machine.data_to_send():
            self._connection.write(data)


def _server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "node.pem", folder / "node.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context
