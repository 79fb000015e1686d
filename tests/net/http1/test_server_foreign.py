"""What begins as neither HTTP/1.1 nor HTTP/2 on a port that speaks both: closed, counted, and not answered."""

from __future__ import annotations

import socket

import pytest
import trio

from infermesh.net.connection import ConnectionLost
from infermesh.net.http1 import Refusal, Request, ServerConnection, ServerLimits, Successor
from infermesh.testing.reactors import running_reactor


async def _said_to(opening: bytes) -> tuple[bytes, list[str]]:
    """(what the server says, the reasons that it counted)."""
    counted: list[str] = []

    def refuse(refusal: Refusal) -> bytes:
        counted.append(refusal.reason)
        return b"HTTP/1.1 %d X\r\n\r\n" % refusal.status

    def answer(connection: ServerConnection, request: Request) -> None:
        connection.respond(200, [])

    def on_preface(connection: ServerConnection, rest: bytes) -> Successor:
        raise AssertionError("nobody begins with HTTP/2 here")

    async with running_reactor() as running:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        connection = ServerConnection(
            ours,
            running.reactor,
            running.timers,
            ServerLimits(),
            answer=answer,
            refuse=refuse,
            on_preface=on_preface,
        )
        said = b""
        async with trio.SocketStream(trio.socket.from_stdlib_socket(theirs)) as client, trio.open_nursery() as nursery:
            nursery.start_soon(_serve, connection)
            with trio.fail_after(5):
                await client.send_all(opening)
                async for piece in client:
                    said += piece
                await client.aclose()
    return said, counted


async def _serve(connection: ServerConnection) -> None:
    try:
        with connection.scope:
            await connection.serve()
    except ConnectionLost:
        pass
    finally:
        connection.abort()


@pytest.mark.parametrize("opening", [b"INVALID CONNECTION PREFACE\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"\r\nGET /\r\n\r\n"])
async def test_it_gets_no_answer_and_is_counted(opening: bytes) -> None:
    assert await _said_to(opening) == (b"", ["malformed"])


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/3\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGARBAGE\r\n\r\n",
    ],
)
async def test_what_begins_as_http_is_told_what_is_wrong(opening: bytes) -> None:
    said, counted = await _said_to(opening)
    assert b"HTTP/1.1 400 X\r\n\r\n" in said or b"HTTP/1.1 505 X\r\n\r\n" in said
    assert counted == ["malformed"]
