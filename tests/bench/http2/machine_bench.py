"""What a relay costs in the protocol machines alone: ours beside python-hyper's h2, in one run. No sockets.

The relay holds a server machine towards the client and a client machine towards the backend, and hands each event of
one to the other. Client and backend are machines of ours in both cases, and their time does not count. A unary call is
HEADERS + DATA there, HEADERS + DATA + trailers back, with a request id and a deadline of its own each time; a DATA
frame is 200 bytes of a stream, credited as it is passed on. The least of the rounds counts: what is above it is the
machine's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import Protocol

import h2.events
from h2.config import H2Configuration
from h2.connection import H2Connection

from wire.http1 import Field
from wire.http2 import (
    DataReceived,
    HeadersReceived,
    Http2Config,
    Http2Connection,
    Role,
    TrailersReceived,
)

ROUNDS = 7
CALLS = 300
FRAMES = 40  # Of one read.
READS = 50
BODY = bytes(500)
PIECE = bytes(200)
RESPONSE: list[Field] = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
]
TRAILERS: list[Field] = [(b"grpc-status", b"0"), (b"grpc-message", b"")]
LIMITS_US = {"unary": 60.0, "data": 3.0}
_ids = itertools.count()


def request() -> list[Field]:
    number = next(_ids)
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
        (b":authority", b"mesh.test:8080"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"grpc-python/1.74.0 grpc-c/48.0.0 (linux; chttp2)"),
        (b"grpc-accept-encoding", b"identity, deflate, gzip"),
        (b"grpc-timeout", b"%dm" % (900 + number % 97)),
        (b"x-request-id", b"%016x" % number),
        (b"traceparent", b"00-%032x-%016x-01" % (number * 7919, number)),
    ]


class Relay(Protocol):
    def to_backend(self, data: bytes) -> bytes: ...

    def to_client(self, data: bytes) -> bytes: ...

    def acknowledge(self) -> tuple[bytes, bytes]:
        """What it has for client and backend of its own: SETTINGS, credit."""


class Ours:
    def __init__(self) -> None:
        self.server = Http2Connection(Http2Config(Role.SERVER), 0.0)
        self.client = Http2Connection(Http2Config(Role.CLIENT), 0.0)
        self.server.start()
        self.client.start()
        self.there: dict[int, int] = {}
        self.back: dict[int, int] = {}

    def to_backend(self, data: bytes) -> bytes:
        client = self.client
        server = self.server
        for event in server.receive(data, 0.0):
            if type(event) is DataReceived:
                client.send_data(self.there[event.stream_id], event.data, end_stream=event.end_stream)
                server.credit(event.stream_id, event.flow_bytes)
            elif type(event) is HeadersReceived:
                stream_id = client.open_stream()
                self.there[event.stream_id] = stream_id
                self.back[stream_id] = event.stream_id
                client.send_headers(stream_id, event.fields, end_stream=event.end_stream)
        return client.take_output()

    def to_client(self, data: bytes) -> bytes:
        client = self.client
        server = self.server
        for event in client.receive(data, 0.0):
            if type(event) is DataReceived:
                server.send_data(self.back[event.stream_id], event.data, end_stream=event.end_stream)
                client.credit(event.stream_id, event.flow_bytes)
            elif type(event) is HeadersReceived:
                server.send_headers(self.back[event.stream_id], event.fields, end_stream=event.end_stream)
            elif type(event) is TrailersReceived:
                server.send_headers(self.back[event.stream_id], event.fields, end_stream=True)
        return server.take_output()

    def acknowledge(self) -> tuple[bytes, bytes]:
        return self.server.take_output(), self.client.take_output()


class H2:
    def __init__(self) -> None:
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        for connection in (self.server, self.client):
            connection.initiate_connection()
            connection.increment_flow_control_window((16 << 20) - 65_535)
        self.there: dict[int, int] = {}
        self.back: dict[int, int] = {}

    def to_backend(self, data: bytes) -> bytes:
        _relay(self.server, self.client, data, self.stream_for)
        return self.client.data_to_send()

    def to_client(self, data: bytes) -> bytes:
        _relay(self.client, self.server, data, lambda stream_id: self.back[stream_id])
        return self.server.data_to_send()

    def stream_for(self, stream_id: int) -> int:
        if stream_id not in self.there:
            self.there[stream_id] = self.client.get_next_available_stream_id()
            self.back[self.there[stream_id]] = stream_id
        return self.there[stream_id]

    def acknowledge(self) -> tuple[bytes, bytes]:
        return self.server.data_to_send(), self.client.data_to_send()


def _relay(source: H2Connection, sink: H2Connection, data: bytes, stream_for: Callable[[int], int]) -> None:
    for event in source.receive_data(data):
        if isinstance(event, h2.events.DataReceived):
            ends = event.stream_ended is not None
            sink.send_data(stream_for(event.stream_id), event.data, end_stream=ends)
            source.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived | h2.events.TrailersReceived):
            ends = event.stream_ended is not None
            sink.send_headers(stream_for(event.stream_id), event.headers, end_stream=ends)


class Ends:
    """Client and backend around a relay, and the relay's time."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.client = Http2Connection(Http2Config(Role.CLIENT), 0.0)
        self.backend = Http2Connection(Http2Config(Role.SERVER), 0.0)
        self.client.start()
        self.backend.start()
        self.spent_s = 0.0
        for _ in range(3):
            self.settle()

    def settle(self) -> None:
        to_client, to_backend = self.relay.acknowledge()
        self.client.receive(to_client, 0.0)
        self.backend.receive(to_backend, 0.0)
        self.backend.receive(self.there(self.client.take_output()), 0.0)
        self.client.receive(self.back(self.backend.take_output()), 0.0)

    def there(self, data: bytes) -> bytes:
        began = time.process_time()
        output = self.relay.to_backend(data)
        self.spent_s += time.process_time() - began
        return output

    def back(self, data: bytes) -> bytes:
        began = time.process_time()
        output = self.relay.to_client(data)
        self.spent_s += time.process_time() - began
        return output

    def unary(self) -> None:
        client = self.client
        backend = self.backend
        stream_id = client.open_stream()
        client.send_headers(stream_id, request())
        client.send_data(stream_id, BODY, end_stream=True)
        (_, asked) = [
            event
            for event in backend.receive(self.there(client.take_output()), 0.0)
            if type(event) in (HeadersReceived, DataReceived)
        ]
        assert isinstance(asked, DataReceived)
        backend.credit(asked.stream_id, asked.flow_bytes)
        backend.send_headers(asked.stream_id, RESPONSE)
        backend.send_data(asked.stream_id, BODY)
        backend.send_headers(asked.stream_id, TRAILERS, end_stream=True)
        answer = client.receive(self.back(backend.take_output()), 0.0)
        assert isinstance(answer[-1], TrailersReceived)
        client.credit(stream_id, len(BODY))

    def stream(self) -> Callable[[], None]:
        """Opens a stream; each call of what is returned is one read of DATA frames on it, back to the client."""
        client = self.client
        backend = self.backend
        stream_id = client.open_stream()
        client.send_headers(stream_id, request(), end_stream=True)
        (asked,) = backend.receive(self.there(client.take_output()), 0.0)
        assert isinstance(asked, HeadersReceived)
        backend.send_headers(asked.stream_id, RESPONSE)
        client.receive(self.back(backend.take_output()), 0.0)

        def read() -> None:
            for _ in range(FRAMES):
                backend.send_data(asked.stream_id, PIECE)
            for event in client.receive(self.back(backend.take_output()), 0.0):
                if isinstance(event, DataReceived):
                    client.credit(event.stream_id, event.flow_bytes)
            spent_s = self.spent_s
            self.settle()
            self.spent_s = spent_s

        return read


def measure(make: Callable[[], Relay]) -> dict[str, float]:
    """Microseconds for one unary call, and for one DATA frame."""
    ends = Ends(make())
    ends.spent_s = 0.0
    for _ in range(CALLS):
        ends.unary()
        spent_s = ends.spent_s
        ends.settle()
        ends.spent_s = spent_s
    unary_s = ends.spent_s / CALLS
    read = ends.stream()
    ends.spent_s = 0.0
    for _ in range(READS):
        read()
    return {"unary": unary_s * 1e6, "data": ends.spent_s / READS / FRAMES * 1e6}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench http2", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    least: dict[str, dict[str, float]] = {}
    for _ in range(ROUNDS):
        for name, make in (("ours", Ours), ("h2", H2)):
            found = measure(make)
            kept = least.setdefault(name, found)
            least[name] = {what: min(kept[what], found[what]) for what in found}
    if options.json:
        print(json.dumps(least))
        return 0
    print(f"{'':12}{'ours us':>10}{'limit':>8}{'h2 us':>10}{'ratio':>8}")
    for what, limit_us in LIMITS_US.items():
        ours = least["ours"][what]
        theirs = least["h2"][what]
        print(f"{what:12}{ours:10.2f}{limit_us:8.1f}{theirs:10.2f}{theirs / ours:8.1f}")
    return 0 if all(least["ours"][what] <= limit_us for what, limit_us in LIMITS_US.items()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
