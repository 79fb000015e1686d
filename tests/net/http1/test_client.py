from __future__ import annotations

import socket

import pytest
import trio

from infermesh.net.connection import ConnectionLost
from infermesh.net.http1 import UpstreamConnection
from infermesh.testing.reactors import running_reactor
from wire.http1 import ResponseHead
from wire.limits import HTTP1_INTERIM_RESPONSES_MAX


class Owner:
    def __init__(self) -> None:
        self.kept = 0
        self.forgotten = 0

    def give_back(self, up: UpstreamConnection) -> None:
        self.kept += 1

    def forget(self, up: UpstreamConnection) -> None:
        self.forgotten += 1


class Sink:
    """Reads every body to the end and keeps what it is told."""

    def __init__(self) -> None:
        self.interim: list[int] = []
        self.body = b""
        self.failure = ""
        self.ended = trio.Event()

    def on_interim(self, up: UpstreamConnection, head: ResponseHead) -> None:
        self.interim.append(head.status)

    def on_head(self, up: UpstreamConnection, head: ResponseHead) -> None:
        up.read_body()

    def on_first_bytes(self, up: UpstreamConnection) -> None:
        raise AssertionError("nothing was held")

    def on_body(self, up: UpstreamConnection, payload: bytes) -> None:
        self.body += payload

    def on_doubt(self, up: UpstreamConnection, why: str) -> None:
        raise AssertionError("nobody doubts this peer")

    def on_end(self, up: UpstreamConnection) -> None:
        self.ended.set()

    def on_failed(self, up: UpstreamConnection, error: ConnectionLost) -> None:
        self.failure = str(error)
        self.ended.set()


async def exchange(response: bytes) -> tuple[Sink, Owner]:
    async with running_reactor() as running:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        owner, sink = Owner(), Sink()
        up = UpstreamConnection(ours, running.reactor, running.timers, owner)
        up.send(b"POST / HTTP/1.1\r\n\r\n", b"POST", sink)
        theirs.sendall(response)
        with trio.fail_after(5):
            await sink.ended.wait()
        up.abort()
        theirs.close()
        return sink, owner


async def test_a_defect_while_an_answer_is_handled_ends_the_exchange_for_whoever_waits_for_it() -> None:
    class Broken(Sink):
        def on_head(self, up: UpstreamConnection, head: ResponseHead) -> None:
            raise ZeroDivisionError("a defect")

    async with running_reactor() as running:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        owner, sink = Owner(), Broken()
        up = UpstreamConnection(ours, running.reactor, running.timers, owner)
        up.send(b"POST / HTTP/1.1\r\n\r\n", b"POST", sink)
        theirs.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        with trio.fail_after(5):
            await sink.ended.wait()
        assert up.closed
        assert owner.forgotten == 1
        assert [type(error) for error in running.crashes] == [ZeroDivisionError]
        running.crashes.clear()
        theirs.close()


async def test_a_request_on_a_connection_that_is_closed_already_fails_at_once() -> None:
    async with running_reactor() as running:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        owner, sink = Owner(), Sink()
        up = UpstreamConnection(ours, running.reactor, running.timers, owner)
        up.abort()
        up.send(b"POST / HTTP/1.1\r\n\r\n", b"POST", sink)
        assert sink.failure
        theirs.close()


@pytest.mark.parametrize(
    ("count", "fails"), [(HTTP1_INTERIM_RESPONSES_MAX, False), (HTTP1_INTERIM_RESPONSES_MAX + 1, True)]
)
async def test_interim_responses_pass_up_to_their_limit(count: int, *, fails: bool) -> None:
    data = b"HTTP/1.1 103 Early Hints\r\n\r\n" * count + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    sink, _ = await exchange(data)
    assert (sink.body, bool(sink.failure)) == ((b"", True) if fails else (b"ok", False))


async def test_a_chunked_body_is_handed_on_without_its_framing() -> None:
    sink, owner = await exchange(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    assert sink.body == b"abc"
    assert (owner.kept, owner.forgotten) == (1, 0)


async def test_bytes_beyond_the_end_close_the_connection() -> None:
    sink, owner = await exchange(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokEXTRA")
    assert sink.body == b"ok"
    assert (owner.kept, owner.forgotten) == (0, 1)
