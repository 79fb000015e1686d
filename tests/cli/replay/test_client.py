"""The replay's client on real sockets: connections are kept, dead ones replaced, TLS spoken, refusals named."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing
import trustme

from infermesh.cli.replay.answer import Answer
from infermesh.cli.replay.client import ClientFailed, Dial, ReplayClient, TargetFailed, find_addresses, make_dial
from infermesh.net.exchange import parse_url

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = b'data: {"choices":[{"text":"hello"}]}\n\ndata: [DONE]\n\n'
WHOLE = HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENTS), EVENTS)

Serve = Callable[[trio.abc.Stream], Awaitable[None]]


async def _listen(nursery: trio.Nursery, serve: Serve, *, tls: ssl.SSLContext | None = None) -> Dial:
    """A server on a free port, and the way to it."""
    listeners = await nursery.start(partial(trio.serve_tcp, port=0, host="127.0.0.1"), _shielded(serve, tls))
    port = listeners[0].socket.getsockname()[1]
    place = parse_url(f"{'https' if tls else 'http'}://127.0.0.1:{port}")
    return make_dial(place, await find_addresses(place), tls=_TRUST if tls else None)


def _shielded(serve: Serve, tls: ssl.SSLContext | None) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await serve(trio.SSLStream(stream, tls, server_side=True, https_compatible=True) if tls else stream)
            except trio.BrokenResourceError:
                return  # The client left.

    return handle


_CA = trustme.CA()
_TRUST = ssl.create_default_context()
_CA.configure_trust(_TRUST)


async def _answer(stream: trio.abc.Stream) -> None:
    while await stream.receive_some():
        await stream.send_all(WHOLE)


def _request(body_bytes: int = 2) -> bytes:
    return b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % body_bytes + b"x" * body_bytes


async def _ask(client: ReplayClient, message: bytes) -> Answer:
    answer = Answer()
    with trio.fail_after(5):
        assert await client.exchange(message, answer)
    return answer


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_one_connection_carries_one_request_after_another(secure: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _CA.issue_cert("127.0.0.1").configure_cert(context)
    async with trio.open_nursery() as nursery:
        client = ReplayClient(await _listen(nursery, _answer, tls=context if secure else None), connections_max=4)
        for _ in range(3):
            answer = await _ask(client, _request())
            assert (answer.status, answer.tokens, answer.done_mark) == (200, 1, True)
        assert client.connections_made == 1
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_a_request_larger_than_the_kernels_buffers_goes_out_whole() -> None:
    message, received = _request(8 * 2**20), 0

    async def take_all(stream: trio.abc.Stream) -> None:
        nonlocal received
        while received < len(message):
            received += len(await stream.receive_some(65_536))
        await stream.send_all(WHOLE)

    async with trio.open_nursery() as nursery:
        client = ReplayClient(await _listen(nursery, take_all), connections_max=1)
        assert (await _ask(client, message)).complete
        assert received == len(message)
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_a_kept_connection_that_the_server_closed_is_not_used_again() -> None:
    closed = trio.Event()

    async def answer_once(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(WHOLE)
        await stream.aclose()
        closed.set()

    async with trio.open_nursery() as nursery:
        client = ReplayClient(await _listen(nursery, answer_once), connections_max=4)
        assert (await _ask(client, _request())).complete
        with trio.fail_after(5):
            await closed.wait()
        assert (await _ask(client, _request())).complete
        assert client.connections_made == 2
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_a_fresh_connection_that_dies_is_the_servers_failure() -> None:
    async def hang_up(stream: trio.abc.Stream) -> None:
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        client = ReplayClient(await _listen(nursery, hang_up), connections_max=4)
        with pytest.raises(TargetFailed) as caught:
            await _ask(client, _request())
        assert caught.value.cause == "broken"
        assert client.in_flight == 0
        nursery.cancel_scope.cancel()


async def test_nobody_there_is_a_failed_connect() -> None:
    async with trio.open_nursery() as nursery:
        dial = await _listen(nursery, _answer)
        nursery.cancel_scope.cancel()
    client = ReplayClient(dial, connections_max=1)
    with pytest.raises(TargetFailed, match="cannot connect: Connection refused") as caught:
        await _ask(client, _request())
    assert caught.value.cause == "connect"


async def test_a_certificate_of_a_stranger_is_a_failed_connect() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with trio.open_nursery() as nursery:
        client = ReplayClient(await _listen(nursery, _answer, tls=context), connections_max=1)
        with pytest.raises(TargetFailed, match="certificate verify failed"):
            await _ask(client, _request())
        nursery.cancel_scope.cancel()


async def test_beyond_the_limit_of_connections_nothing_waits() -> None:
    async def say_nothing(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        client = ReplayClient(await _listen(nursery, say_nothing), connections_max=1)
        nursery.start_soon(client.exchange, _request(), Answer())
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ClientFailed, match="1 requests are in flight"):
            await _ask(client, _request())
        nursery.cancel_scope.cancel()
