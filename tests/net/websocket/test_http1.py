"""A WebSocket on a connection of its own, over real sockets: opening, both ways, deadlines, and every way to end."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from infermesh.net.body_budget import BodyBudget
from infermesh.net.connection import BACKLOG_HIGH_BYTES
from infermesh.net.websocket import WebSocketConfig
from infermesh.net.websocket.http1 import WebSocketConnection
from infermesh.testing.waiting import wait_until
from infermesh.testing.websocket_client import RawWebSocket
from infermesh.testing.websocket_echo import EchoServer, serve_echo
from infermesh.testing.websocket_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    client_frame,
    close_payload,
    upgrade_request,
)


@asynccontextmanager
async def echoing(config: WebSocketConfig | None = None) -> AsyncIterator[EchoServer]:
    """At the end every WebSocket is gone, each told its reader so once, and nothing has crashed."""
    async with trio.open_nursery() as nursery:
        server: EchoServer = await nursery.start(
            partial(serve_echo, config or WebSocketConfig(), subprotocols=(b"infermesh.v1",))
        )
        with trio.fail_after(10):
            yield server
            await wait_until(lambda: len(server.closings) == len(server.open), "every WebSocket is gone")
        assert server.crashes == []
        nursery.cancel_scope.cancel()


async def opened(server: EchoServer, *lines: bytes, first: bytes = b"") -> RawWebSocket:
    return await RawWebSocket.dial(server.address, b"/", *lines, first=first)


async def test_what_is_said_comes_back() -> None:
    async with echoing() as server, await opened(server) as client:
        await client.say(TEXT, b"hello")
        assert await client.read() == Frame(TEXT, b"hello")
        await client.say(BINARY, bytes(100_000))
        assert await client.read() == Frame(BINARY, bytes(100_000))


async def test_frames_that_come_with_the_request_are_read() -> None:
    async with echoing() as server, await opened(server, first=client_frame(TEXT, b"early")) as client:
        assert await client.read() == Frame(TEXT, b"early")


async def test_a_subprotocol_and_compression_are_agreed_in_the_answer() -> None:
    lines = (b"sec-websocket-protocol: infermesh.v1", b"sec-websocket-extensions: permessage-deflate")
    async with echoing() as server, await opened(server, *lines) as client:
        assert b"\r\nsec-websocket-protocol: infermesh.v1" in client.answer
        assert b"\r\nsec-websocket-extensions: permessage-deflate; server_no" in client.answer
        assert server.open[0].subprotocol == b"infermesh.v1"
        await client.say(TEXT, b"x" * 2000)
        answer = await client.read()
        assert answer is not None
        assert answer.rsv == 4
        assert len(answer.payload) < 100


async def test_without_the_setting_compression_is_not_agreed() -> None:
    line = b"sec-websocket-extensions: permessage-deflate"
    async with echoing(WebSocketConfig(deflate=None)) as server, await opened(server, line) as client:
        assert b"extensions" not in client.answer


async def test_a_refused_opening_leaves_the_connection_to_http() -> None:
    async with echoing() as server, await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(upgrade_request(without=b"sec-websocket-key"))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 400 ")
        await stream.send_all(upgrade_request(without=b"sec-websocket-version"))
        answer = bytes(await stream.receive_some())
        assert answer.startswith(b"HTTP/1.1 426 ")
        assert b"\r\nsec-websocket-version: 13\r\n" in answer
        await stream.send_all(upgrade_request() + client_frame(CLOSE))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")


async def test_a_close_is_answered_with_its_code_and_then_the_server_closes() -> None:
    async with echoing() as server, await opened(server) as client:
        await client.say(CLOSE, close_payload(3333, b"done"))
        assert await client.read() == Frame(CLOSE, close_payload(3333))
        assert await client.read() is None
        await wait_until(lambda: server.closings == [(3333, "done")], "the reader knows")


async def test_messages_under_way_share_one_bound_with_all_other_bodies() -> None:
    bodies = BodyBudget(1000)
    config = WebSocketConfig(bodies=bodies)
    async with echoing(config) as server, await opened(server) as one, await opened(server) as other:
        await one.say(TEXT, b"x" * 600, fin=False)
        await wait_until(lambda: bodies.held_bytes == 600, "its message is under way")
        await other.say(TEXT, b"y" * 401, fin=False)
        closing = await other.read()
        assert closing is not None
        assert closing.close_code == 1013
        assert server.faults == ["bodies_in_flight"]
        await one.say(CONTINUATION, b"x" * 10)
        assert await one.read() == Frame(TEXT, b"x" * 610)
        await wait_until(lambda: bodies.held_bytes == 0, "what is whole, or refused, is not kept")


async def test_our_close_waits_for_the_peers() -> None:
    async with echoing() as server, await opened(server) as client:
        server.open[0].close(1001, "bye")
        assert await client.read() == Frame(CLOSE, close_payload(1001, b"bye"))
        server.open[0].send_text(b"too late")
        await client.say(TEXT, b"not heard any more")
        await client.say(CLOSE, close_payload(1001))
        assert await client.read() is None
        assert server.closings == [(1001, "bye")]


async def test_a_peer_that_does_not_answer_our_close_is_cut_off() -> None:
    async with echoing(WebSocketConfig(close_timeout_s=0.05)) as server, await opened(server) as client:
        server.open[0].close(1000)
        assert await client.read() == Frame(CLOSE, close_payload(1000))
        assert await client.read() is None


async def test_a_peer_that_talks_on_after_our_close_is_cut_off_all_the_same() -> None:
    async with echoing(WebSocketConfig(close_timeout_s=0.1)) as server, await opened(server) as client:
        server.open[0].close(1000)
        async with trio.open_nursery() as nursery:

            async def talk() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        await client.send(client_frame(TEXT, b"x") * 1000)

            nursery.start_soon(talk)
            await client.read_all()


async def test_a_broken_frame_is_told_before_the_end() -> None:
    async with echoing() as server, await opened(server) as client:
        await client.send(client_frame(TEXT, b"before"), client_frame(0x3), client_frame(TEXT, b"after"))
        assert await client.read() == Frame(TEXT, b"before")
        closing = await client.read()
        assert closing is not None
        assert closing.close_code == 1002
        assert await client.read() is None
        assert server.faults == ["malformed"]
        assert server.closings[0][0] == 1002


@pytest.mark.parametrize(
    ("frame", "code", "fault"),
    [
        (client_frame(BINARY, declared=1 << 40), 1009, "body_oversized"),
        (client_frame(TEXT, b"\xff"), 1007, "malformed"),
        (client_frame(PING) * 601, 1008, "flood"),
    ],
)
async def test_each_fault_has_its_close_code_and_its_counter(frame: bytes, code: int, fault: str) -> None:
    async with echoing() as server, await opened(server) as client:
        await client.send(frame)
        closing = (await client.read_all())[-1]
        assert closing is not None
        assert closing.close_code == code
        assert server.faults == [fault]


async def test_a_client_that_leaves_without_a_word_is_gone() -> None:
    async with echoing() as server:
        async with await opened(server) as client:
            await client.say(TEXT, b"x")
            await client.read()
        await wait_until(lambda: bool(server.closings), "the reader knows")
        assert server.closings == [(1006, "closed by the client without a close frame")]


async def test_silence_is_asked_and_an_answer_is_life() -> None:
    config = WebSocketConfig(ping_interval_s=0.05, ping_timeout_s=5.0)
    async with echoing(config) as server, await opened(server) as client:
        for _ in range(2):
            ping = await client.read()
            assert ping is not None
            assert ping.opcode == PING
            await client.say(PONG, ping.payload)
        assert server.faults == []
        assert not server.open[0].closed


async def test_a_client_that_answers_no_ping_is_dead() -> None:
    config = WebSocketConfig(ping_interval_s=0.05, ping_timeout_s=0.05)
    async with echoing(config) as server, await opened(server) as client:
        frames = await client.read_all()
        assert [frame.opcode for frame in frames if frame is not None] == [PING]
        assert server.faults == ["no_pong"]
        assert server.closings[0][0] == 1006


async def test_a_message_that_comes_too_slowly_is_given_up() -> None:
    async with echoing(WebSocketConfig(message_timeout_s=0.1)) as server, await opened(server) as client:
        await client.say(TEXT, b"begun", fin=False)
        closing = await client.read()
        assert closing is not None
        assert closing.close_code == 1008
        assert server.faults == ["body_timed_out"]
        await client.say(CLOSE)


async def test_many_small_frames_are_read_in_turns_and_all_of_them() -> None:
    async with echoing() as server, await opened(server) as client:
        pieces = client_frame(CONTINUATION, bytes(64), fin=False) * 2000
        await client.send(client_frame(BINARY, fin=False), pieces, client_frame(CONTINUATION), client_frame(PING, b"p"))
        assert await client.read() == Frame(BINARY, bytes(64 * 2000))
        assert await client.read() == Frame(PONG, b"p")


class Faulty:
    def on_message(self, data: bytes, *, text: bool) -> None:
        raise RuntimeError("a defect")

    def on_closing(self, code: int, reason: str) -> None:
        raise RuntimeError("another")


@pytest.mark.parametrize("ending", ["a message", "no word"])
async def test_a_defect_of_a_reader_ends_its_websocket_and_nothing_else(ending: str) -> None:
    async with echoing() as server, await opened(server) as bystander:
        async with await opened(server) as client:
            server.open[1].reader = Faulty()
            if ending == "a message":
                await client.say(TEXT, b"x")
                closing = (await client.read_all())[-1]
                assert closing is not None
                assert closing.close_code == 1011
        await wait_until(lambda: len(server.crashes) == (2 if ending == "a message" else 1), "the defects are told")
        server.crashes.clear()
        server.closings.append((0, "of the faulty one"))
        await bystander.say(TEXT, b"y")
        assert await bystander.read() == Frame(TEXT, b"y")


def _narrow(client: RawWebSocket) -> None:
    """The client's kernel takes little, so that what it does not read waits with us."""
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


def _has_read(transport: WebSocketConnection, bytes_in: int) -> bool:
    return transport.bytes_in == bytes_in


async def test_pings_of_a_client_that_does_not_read_fill_no_memory_and_the_last_is_answered() -> None:
    async with echoing() as server, await opened(server) as client:
        transport = server.open[0]._transport
        assert isinstance(transport, WebSocketConnection)
        frame, asked, due = client_frame(BINARY, bytes(50_000)), 0, transport.bytes_in
        while transport.backlog_len <= BACKLOG_HIGH_BYTES:
            await client.send(frame)
            asked, due = asked + 1, due + len(frame)
            await wait_until(partial(_has_read, transport, due), "it is answered")
        waiting = transport.backlog_len
        for number in range(300):
            await client.say(PING, b"%d" % number)
        await client.say(PING, b"last")
        await wait_until(lambda: server.open[0]._answer_ping == b"last", "the last ping is kept")
        assert transport.backlog_len <= waiting
        for _ in range(asked):
            assert await client.read() == Frame(BINARY, bytes(50_000))
        assert await client.read() == Frame(PONG, b"last")


class Source:
    """Where what is sent comes from; it counts how often it was stopped and let go."""

    def __init__(self) -> None:
        self.paused = self.resumed = 0

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.resumed += 1


async def test_a_source_is_paused_while_the_client_takes_no_more() -> None:
    async with echoing() as server, await opened(server) as client:
        source, sent = Source(), 0
        while not source.paused:
            server.open[0].send_texts([b"x" * 10_000] * 4, source)
            sent += 4
        assert source.resumed == 0
        for _ in range(sent):
            assert await client.read() == Frame(TEXT, b"x" * 10_000)
        await wait_until(lambda: source.resumed == 1, "the source goes on")


async def test_a_client_that_takes_no_output_is_cut_off() -> None:
    async with echoing(WebSocketConfig(send_timeout_s=0.2)) as server, await opened(server) as client:
        _narrow(client)
        await client.say(BINARY, bytes(8 << 20))
        await wait_until(lambda: bool(server.closings), "it is cut off")
        assert server.faults == ["send_timed_out"]


async def test_a_client_that_asks_much_and_reads_nothing_is_not_read_either() -> None:
    async with echoing() as server, await opened(server) as client:
        _narrow(client)
        sent = 0
        with trio.move_on_after(0.3):
            while True:
                await client.say(BINARY, bytes(65_536))
                sent += 1
        assert server.open[0]._transport.backlog_len < 1 << 20
        assert sent < 200
