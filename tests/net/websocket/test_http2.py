"""A WebSocket on a stream of HTTP/2 (RFC 8441), asked by the h2 package: opening, both ways, windows, ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import h2.errors
import h2.settings
import trio

from infermesh.net.websocket import WebSocketConfig
from infermesh.testing.h2_peer import H2Client, PeerStream
from infermesh.testing.waiting import wait_until
from infermesh.testing.websocket_echo import EchoServer, serve_echo
from infermesh.testing.websocket_frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    client_frame,
    close_payload,
    read_frames,
)

CANCEL = int(h2.errors.ErrorCodes.CANCEL)
ENABLE_CONNECT_PROTOCOL = 8


@asynccontextmanager
async def echoing(config: WebSocketConfig | None = None) -> AsyncIterator[EchoServer]:
    async with trio.open_nursery() as nursery:
        server: EchoServer = await nursery.start(partial(serve_echo, config or WebSocketConfig()))
        with trio.fail_after(10):
            yield server
            await wait_until(lambda: len(server.closings) == len(server.open), "every WebSocket is gone")
        assert server.crashes == []
        nursery.cancel_scope.cancel()


async def connect(client: H2Client, *, protocol: str = "websocket", version: str = "13") -> int:
    """A stream with an extended CONNECT, once the server has said that it takes one."""
    await client.read_until(lambda: ENABLE_CONNECT_PROTOCOL in client.settings)
    assert client.settings[ENABLE_CONNECT_PROTOCOL] == 1
    stream_id: int = client.machine.get_next_available_stream_id()
    head = [
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "test"),
        ("sec-websocket-version", version),
    ]
    await client.send_headers(stream_id, head)
    return stream_id


async def opened(client: H2Client) -> PeerStream:
    stream = client.of(await connect(client))
    await client.read_until(lambda: bool(stream.headers))
    assert stream.headers == {":status": "200"}
    return stream


async def frames_of(client: H2Client, stream: PeerStream, count: int) -> list[Frame]:
    """The next frames of the stream."""
    await client.read_until(lambda: len(read_frames(bytes(stream.body))[0]) >= count or stream.reset is not None)
    frames, rest = read_frames(bytes(stream.body))
    stream.body[:] = rest
    return frames


async def test_what_is_said_comes_back_and_a_close_ends_the_stream_on_both_sides() -> None:
    async with echoing() as server, await H2Client.dial(server.address) as client:
        stream = await opened(client)
        await client.send_data(stream.stream_id, client_frame(TEXT, b"hello") + client_frame(PING, b"p"))
        assert await frames_of(client, stream, 2) == [Frame(TEXT, b"hello"), Frame(PONG, b"p")]
        await client.send_data(stream.stream_id, client_frame(CLOSE, close_payload(1000)))
        assert await frames_of(client, stream, 1) == [Frame(CLOSE, close_payload(1000))]
        await client.read_until(lambda: stream.ended)
        await client.send_data(stream.stream_id, b"", end=True)
        assert server.closings == [(1000, "")]
        assert stream.reset is None


async def test_other_streams_go_on_beside_it() -> None:
    async with echoing() as server, await H2Client.dial(server.address) as client:
        first, second = await opened(client), await opened(client)
        await client.send_data(first.stream_id, client_frame(TEXT, b"a", declared=100))
        await client.send_data(second.stream_id, client_frame(TEXT, b"b"))
        assert await frames_of(client, second, 1) == [Frame(TEXT, b"b")]
        assert (await client.fetch("GET", "/")).status == 404


async def test_a_message_of_many_windows_comes_back() -> None:
    message = bytes(range(256)) * 12_000  # 3 MiB.
    async with echoing() as server, await H2Client.dial(server.address) as client:
        stream = await opened(client)
        await client.send_data(stream.stream_id, client_frame(BINARY, message))
        assert await frames_of(client, stream, 1) == [Frame(BINARY, message)]


class Source:
    def __init__(self) -> None:
        self.paused = self.resumed = 0

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.resumed += 1


async def test_a_source_is_paused_while_the_stream_has_no_window() -> None:
    async with echoing() as server, await H2Client.dial(server.address, credits=False) as client:
        stream = await opened(client)
        source, sent = Source(), 8
        server.open[0].send_texts([b"x" * 10_000] * sent)
        await client.read_until(lambda: len(stream.body) == 65_535)
        while not source.paused:
            server.open[0].send_texts([b"x" * 10_000] * 4, source)
            sent += 4
        assert source.resumed == 0
        client.credits = True
        client.machine.increment_flow_control_window(1 << 20)
        client.machine.increment_flow_control_window(1 << 20, stream.stream_id)
        await client.flush()
        assert await frames_of(client, stream, sent) == [Frame(TEXT, b"x" * 10_000)] * sent
        assert source.resumed == 1


async def test_a_fault_is_told_by_its_close_code_and_the_connection_lives() -> None:
    async with echoing() as server, await H2Client.dial(server.address) as client:
        stream = await opened(client)
        await client.send_data(stream.stream_id, client_frame(TEXT, b"\xff"))
        (closing,) = await frames_of(client, stream, 1)
        assert closing.close_code == 1007
        await client.read_until(lambda: stream.ended)
        await client.send_data(stream.stream_id, b"", end=True)
        again = await opened(client)
        await client.send_data(again.stream_id, client_frame(TEXT, b"x"))
        assert await frames_of(client, again, 1) == [Frame(TEXT, b"x")]
        assert server.faults == ["malformed"]


async def test_a_client_that_resets_its_stream_is_gone() -> None:
    async with echoing() as server, await H2Client.dial(server.address) as client:
        stream = await opened(client)
        await client.reset(stream.stream_id)
        await wait_until(lambda: bool(server.closings), "the reader knows")
        assert server.closings[0][0] == 1006


async def test_an_end_without_a_close_frame_is_answered_by_a_reset() -> None:
    async with echoing() as server, await H2Client.dial(server.address) as client:
        stream = await opened(client)
        await client.send_data(stream.stream_id, b"", end=True)
        await client.read_until(lambda: stream.reset is not None)
        assert stream.reset == CANCEL
        assert server.closings[0][0] == 1006


async def test_a_peer_that_does_not_answer_our_close_is_reset() -> None:
    async with echoing(WebSocketConfig(close_timeout_s=0.05)) as server, await H2Client.dial(server.address) as client:
        stream = await opened(client)
        server.open[0].close(1001, "bye")
        assert await frames_of(client, stream, 1) == [Frame(CLOSE, close_payload(1001, b"bye"))]
        await client.read_until(lambda: stream.reset is not None)
        assert stream.reset == CANCEL


async def test_a_client_that_answers_no_ping_is_reset() -> None:
    config = WebSocketConfig(ping_interval_s=0.05, ping_timeout_s=0.05)
    async with echoing(config) as server, await H2Client.dial(server.address) as client:
        stream = await opened(client)
        await client.read_until(lambda: stream.reset is not None)
        assert stream.reset == CANCEL
        assert server.faults == ["no_pong"]


async def test_many_frames_are_read_in_turns_while_their_credit_is_withheld() -> None:
    async with echoing() as server, await H2Client.dial(server.address) as client:
        stream = await opened(client)
        await client.send_data(stream.stream_id, client_frame(BINARY, b"x") * 1000)
        assert len(await frames_of(client, stream, 1000)) == 1000
        await client.send_data(stream.stream_id, client_frame(BINARY, bytes(2 << 20)))  # More than one window.
        assert len(await frames_of(client, stream, 1)) == 1


async def test_what_is_no_websocket_is_refused_at_once() -> None:
    async with echoing() as server, await H2Client.dial(server.address) as client:
        udp = await client.answer(await connect(client, protocol="connect-udp"))
        assert udp.status == 501
        old = await client.answer(await connect(client, version="8"))
        assert old.status == 400
        assert old.headers["sec-websocket-version"] == "13"
        assert server.open == []
