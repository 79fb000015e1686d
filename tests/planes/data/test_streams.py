"""Which streams of a port are calls, WebSockets or plain requests, and what is said to those that are none."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from infermesh.net.asker import Asker, Request, SlowCall
from infermesh.net.http1 import Refusal
from infermesh.net.http2 import SERVER_CONFIG, Http2ServerStream, StreamReader
from infermesh.planes.data.deaf import Deaf
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.http2_writer import HTTP2
from infermesh.planes.data.streams import PortStreams, refuse_stream
from infermesh.planes.data.writer import AnswerWriter
from infermesh.testing.h2_peer import H2Client, PeerStream
from tests.net.http2.serving import serving

GRPC = [("content-type", "application/grpc+proto"), ("te", "trailers")]


@dataclass
class Taking:
    """Takes what it is given, and answers with its own name; `known`: paths, None: all."""

    name: str
    known: tuple[bytes, ...] | None = None
    taken: list[bytes] = field(default_factory=list)

    def open(self, stream: Http2ServerStream) -> StreamReader:
        self.taken.append(stream.head.path)
        stream.respond(200, [], self.name.encode())
        return Deaf(stream)

    connect = open

    def open_stream(self, stream: Http2ServerStream) -> StreamReader | None:
        return self.open(stream) if self.known is None or stream.head.path in self.known else None


def answer(asker: Asker, request: Request, writer: AnswerWriter) -> SlowCall | None:
    if request.head.path == b"/refused":
        raise RequestRefused(429, "busy", "come again", retry_after_s=1.5)
    asker.respond(200, [], b"http", method=request.head.method)
    return None


async def asked(streams: PortStreams, path: str, *headers: tuple[str, str], method: str = "POST") -> PeerStream:
    async with serving() as served, await H2Client.dial(served.address) as client:
        served.answer_with = streams.answer
        served.open_with = streams.open_stream
        return await client.fetch(method, path, b"", headers=headers)


def of(*, calls: bool = True, services: bool = True, sockets: bool = True) -> PortStreams:
    return PortStreams(
        answer,
        HTTP2,
        calls=Taking("calls") if calls else None,
        services=Taking("services", (b"/grpc.health.v1.Health/Check",)) if services else None,
        sockets=Taking("sockets") if sockets else None,
    )


async def test_services_of_the_node_come_before_calls_that_pass() -> None:
    assert (await asked(of(), "/grpc.health.v1.Health/Check", *GRPC)).body == b"services"
    assert (await asked(of(), "/any.Service/Do", *GRPC)).body == b"calls"
    assert (await asked(of(services=False), "/grpc.health.v1.Health/Check", *GRPC)).body == b"calls"


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc-web", "application/grpcfoo", ""])
async def test_what_is_no_grpc_is_answered_as_http(content_type: str) -> None:
    got = await asked(of(), "/any.Service/Do", ("content-type", content_type))
    assert got.body == b"http"


async def test_a_call_where_none_passes_is_answered_as_http() -> None:
    assert (await asked(of(calls=False, services=False), "/any.Service/Do", *GRPC)).body == b"http"


async def test_a_refusal_is_an_answer() -> None:
    got = await asked(of(), "/refused")
    assert got.status == 429
    assert got.headers["retry-after"] == "2"
    assert json.loads(bytes(got.body))["error"]["code"] == "busy"


@pytest.mark.parametrize("with_protocol", [True, False])
@pytest.mark.parametrize("sockets", [True, False])
async def test_connect_is_for_websockets_alone(*, with_protocol: bool, sockets: bool) -> None:
    streams = of(sockets=sockets)
    config = SERVER_CONFIG.__class__(role=SERVER_CONFIG.role, extended_connect=True)
    async with serving(config=config) as served, await H2Client.dial(served.address) as client:
        served.answer_with = streams.answer
        served.open_with = streams.open_stream
        await client.read_until(lambda: bool(client.settings))
        head = [(":method", "CONNECT"), (":authority", "mesh")]
        if with_protocol:
            head += [(":protocol", "websocket"), (":scheme", "http"), (":path", "/chat")]
        client.machine.config.validate_outbound_headers = False
        await client.send_headers(1, head)
        got = client.of(1)
        await client.read_until(lambda: got.ended)
    if with_protocol and sockets:
        assert got.body == b"sockets"
    else:
        assert got.status == 501
        assert "CONNECT" in json.loads(bytes(got.body))["error"]["message"]


async def test_what_never_became_a_request_is_answered_in_our_words() -> None:
    async with serving(refuse=refuse_stream) as served, await H2Client.dial(served.address) as client:
        served.open_with = refused_at_the_head
        got = await client.fetch("POST", "/", b"")
    assert got.status == 413
    assert json.loads(bytes(got.body))["error"]["code"] == "body_oversized"


def refused_at_the_head(stream: Http2ServerStream) -> StreamReader | None:
    stream.refuse(Refusal(413, "body_oversized", "too much"))
    return None


async def test_a_stream_answered_at_its_head_leaves_nothing_and_is_not_waited_for() -> None:
    """Its request came whole with its head: no reset follows, and the connection is idle at once."""
    async with serving() as served, await H2Client.dial(served.address) as client:
        served.open_with = Taking("calls").open
        stream_id = await client.ask("POST", "/x", headers=GRPC, end=True)
        await client.answer(stream_id)
        assert client.of(stream_id).reset is None
        assert served.connections[0]._lingering == {}
        assert served.streams[0]._reader is None


async def test_a_call_that_never_became_one_is_refused_in_grpcs_words_and_told_when_to_come_back() -> None:
    def refusing(stream: Http2ServerStream) -> StreamReader:
        refuse_stream(stream, Refusal(503, "bodies_in_flight", "no room"))
        return Deaf(stream)

    async with serving(open_stream=refusing) as served, await H2Client.dial(served.address) as client:
        call = await client.fetch("POST", "/any.Service/Do", headers=GRPC)
        assert call.status == 200
        assert (call.headers["grpc-status"], call.headers["grpc-message"]) == ("14", "no room")
        assert call.headers["grpc-retry-pushback-ms"] == "1000"
        request = await client.fetch("POST", "/v1/completions")
        assert (request.status, request.headers["retry-after"]) == (503, "1")
        assert json.loads(bytes(request.body))["error"]["code"] == "bodies_in_flight"
