"""Invariant: our client and our server, driven and cut in any way, lose no byte, break no rule, and come to rest.

Input: a program, two bytes an operation: open, send, answer, end, reset, credit, ping, drain, and deliver so many
bytes of what one end has written. Neither end may find fault with the other. In the end all is delivered and
credited; then every stream that nobody reset has all its content and its end on both sides, in order.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from fuzz.target import Target, demand
from wire.http2.config import Http2Config, Role
from wire.http2.connection import Http2Connection
from wire.http2.events import (
    ConnectionEnded,
    DataReceived,
    Event,
    GoawayReceived,
    HeadersReceived,
    StreamReset,
    TrailersReceived,
)
from wire.http2.frames import ErrorCode

STREAMS_MAX = 5
OPERATIONS_MAX = 150
_HEAD = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
_ROUNDS_MAX = 2000
_CONNECTION_WINDOW_BYTES = 66_000


@dataclass(slots=True)
class Way:
    """One direction of one stream: what was sent and what came."""

    sent: int = 0
    got: int = 0
    head: bool = False
    ended: bool = False
    end_seen: bool = False
    uncredited: int = 0


@dataclass(slots=True)
class End:
    connection: Http2Connection
    server: bool
    outgoing: bytes = b""  # Taken from it, not delivered.
    ways: dict[int, Way] = field(default_factory=dict)  # What it sends, by stream.
    told_to_go: bool = False


class Pair:
    def __init__(self, window_bytes: int) -> None:
        self.pings = 0
        self.large_bytes = 400 if window_bytes > 1000 else 20  # Many windows full of content take long to say.
        self.ends: list[End] = []
        self.reset: set[int] = set()
        self.opened: list[int] = []
        self.labels: set[str] = set()
        for role in (Role.CLIENT, Role.SERVER):
            config = Http2Config(
                role,
                streams_max=STREAMS_MAX,
                window_bytes=window_bytes,
                connection_window_bytes=_CONNECTION_WINDOW_BYTES,
                high_bytes=64,
                low_bytes=16,
            )
            connection = Http2Connection(config, 0.0)
            connection.start()
            self.ends.append(End(connection, role is Role.SERVER))

    def do(self, operation: int, value: int) -> None:
        end = self.ends[operation >> 3 & 1]
        stream_id = self.opened[value % len(self.opened)] if self.opened else 0
        match operation & 7:
            case 0:
                self.open(end_stream=value & 1 == 1)
            case 1:
                size = value if value < 200 else (value - 199) * self.large_bytes
                self.send(end, stream_id, size, end_stream=False)
            case 2:
                self.send(end, stream_id, value & 0x0F, end_stream=True)
            case 3:
                self.trailers(end, stream_id)
            case 4:
                self.deliver(end, 1 + value * (1 if operation & 0x40 else 60))
            case 5:
                self.credit(end, stream_id)
            case 6 if value < 40 and stream_id in end.ways:
                self.labels.add("reset")
                self.reset.add(stream_id)
                end.connection.reset(stream_id, ErrorCode.CANCEL)
            case 6 if value < 120:
                self.ping(end)
            case 7 if value > 240:
                self.labels.add("drain")
                end.told_to_go = True
                end.connection.drain()
            case _:
                self.answer(stream_id)

    def open(self, *, end_stream: bool) -> None:
        client = self.ends[0]
        if not client.connection.can_open:
            return
        stream_id = client.connection.open_stream()
        self.opened.append(stream_id)
        client.ways[stream_id] = Way(head=True, ended=end_stream)
        client.connection.send_headers(stream_id, [*_HEAD, (b"x-id", b"%d" % stream_id)], end_stream=end_stream)

    def answer(self, stream_id: int) -> None:
        way = self.ends[1].ways.get(stream_id)  # There once the request has come.
        if way is not None and not way.head:
            way.head = True
            self.ends[1].connection.send_headers(stream_id, [(b":status", b"200"), (b"x-id", b"%d" % stream_id)])

    def send(self, end: End, stream_id: int, size: int, *, end_stream: bool) -> None:
        way = end.ways.get(stream_id)
        if way is None or not way.head or way.ended:
            return
        content = bytes((way.sent + place) & 0xFF for place in range(size))
        way.sent += size
        way.ended = end_stream
        end.connection.send_data(stream_id, content, end_stream=end_stream)

    def trailers(self, end: End, stream_id: int) -> None:
        way = end.ways.get(stream_id)
        if way is None or not way.head or way.ended:
            return
        self.labels.add("trailers")
        way.ended = True
        end.connection.send_headers(stream_id, [(b"grpc-status", b"0")], end_stream=True)

    def ping(self, end: End) -> None:
        self.labels.add("ping")
        if self.pings < 8:
            self.pings += 1
            end.connection.ping(b"12345678")

    def deliver(self, end: End, size: int) -> bool:
        """Some of what `end` has written, to the other."""
        if len(end.outgoing) < size:
            end.outgoing += end.connection.take_output()
        piece, end.outgoing = end.outgoing[:size], end.outgoing[size:]
        if not piece:
            return False
        other = self.ends[1 - self.ends.index(end)]
        for event in other.connection.receive(piece, 0.0):
            self.on_event(other, end, event)
        return True

    def on_event(self, end: End, sender: End, event: Event) -> None:
        match event:
            case ConnectionEnded():
                demand(False, "one of ours ends the connection for a fault of the other", event, end.server)
            case HeadersReceived():
                demand(event.fields[-1] == (b"x-id", b"%d" % event.stream_id), "another head", event)
                if end.server:
                    end.ways[event.stream_id] = Way()
                if event.end_stream:
                    self.on_end(sender, event.stream_id)
            case DataReceived():
                way = sender.ways[event.stream_id]
                expected = bytes((way.got + place) & 0xFF for place in range(len(event.data)))
                demand(event.data == expected, "content lost or changed", event.stream_id, way)
                demand(event.flow_bytes == len(event.data), "flow bytes", event)
                way.got += len(event.data)
                way.uncredited += event.flow_bytes
                demand(way.got <= way.sent, "more came than was sent", way)
                if event.end_stream:
                    self.on_end(sender, event.stream_id)
            case TrailersReceived():
                demand(event.fields == [(b"grpc-status", b"0")], "other trailers", event)
                self.on_end(sender, event.stream_id)
            case StreamReset():
                known = event.stream_id in self.reset or event.code == ErrorCode.REFUSED_STREAM
                demand(event.remote, "a fault found by one of ours", event)
                demand(known, "a reset that nobody asked for", event)
                self.reset.add(event.stream_id)
            case GoawayReceived():
                self.labels.add("goaway")
            case _:
                pass

    def on_end(self, sender: End, stream_id: int) -> None:
        way = sender.ways[stream_id]
        demand(way.ended, "an end that was not sent", stream_id)
        demand(not way.end_seen, "an end twice", stream_id)
        demand(way.got == way.sent, "the end before all of the content", stream_id, way)
        way.end_seen = True

    def credit(self, end: End, stream_id: int) -> None:
        """`end` gives back what it got on a stream."""
        way = self.ends[1 - self.ends.index(end)].ways.get(stream_id)
        if way is not None and way.uncredited:
            end.connection.credit(stream_id, way.uncredited)
            way.uncredited = 0

    def settle(self) -> None:
        """Deliver and give back everything until nothing moves; answer and end what is open, and once more."""
        self.run_dry()
        for stream_id in self.opened:
            self.answer(stream_id)
            for end in self.ends:
                self.send(end, stream_id, 3, end_stream=True)
        self.run_dry()

    def run_dry(self) -> None:
        for _ in range(_ROUNDS_MAX):
            moved = [self.deliver(end, 1 << 20) for end in self.ends]
            for end in self.ends:
                for stream_id in self.opened:
                    self.credit(end, stream_id)
            if not any(moved) and not any(end.connection.has_output for end in self.ends):
                return
        demand(False, "it does not come to rest")


def check(data: bytes) -> Hashable:
    # A stream's window that is soon full, or the connection's.
    pair = Pair(_CONNECTION_WINDOW_BYTES if data[:1] > b"\x80" else 300)
    for at in range(1, min(len(data) - 1, 2 * OPERATIONS_MAX + 1), 2):
        pair.do(data[at], data[at + 1])
    pair.settle()
    refused = False
    for stream_id in pair.opened:
        if stream_id in pair.reset:
            continue
        for end in pair.ends:
            way = end.ways.get(stream_id)
            if way is None:
                demand(pair.ends[1].told_to_go or pair.ends[0].told_to_go, "a request that never came", stream_id)
                refused = True
                continue
            demand(way.end_seen, "an end that never came", stream_id, end.server, way)
    if not refused:
        for end in pair.ends:
            demand(end.connection.streams_open == 0, "streams left open", end.connection.streams_open, end.server)
    return frozenset(pair.labels), min(len(pair.opened), 3), len(pair.reset) > 0


def seeds() -> Iterator[bytes]:
    yield bytes((0, 0, 0, 4, 255, 12, 255, 7, 0, 9, 50, 12, 255, 10, 1, 12, 255))
    yield bytes((0, 0, 1, 4, 200, 15, 0, 9, 255, 12, 255, 5, 0, 12, 255, 11, 0))
    yield bytes((0, 0, 0, 1, 255, 4, 255, 4, 255, 13, 0, 4, 255, 2, 5))
    yield bytes((255, *((0, 0) * 7), 4, 255, 6, 8, 14, 4, 12, 255, 6, 0))
    yield bytes((0, 0, 0, 4, 90, 15, 255, 12, 255, 0, 0, 4, 255, 7, 0, 3, 0, 11, 0))
    yield bytes((0, 0, 0, 0x44, 3, 0x44, 20, 0x4C, 7, 12, 99, 7, 0, 9, 210, 0x4C, 100, 5, 0))


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.http2",),
    words=(bytes((4, 255)), bytes((12, 255)), bytes((0, 0)), bytes((9, 255)), bytes((5, 0)), bytes((13, 0))),
    input_bytes_max=2 * OPERATIONS_MAX + 1,
    peak_bytes_max=32 << 20,
)
