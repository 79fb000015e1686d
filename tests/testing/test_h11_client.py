"""The tests' own HTTP client, against the tests' own HTTP server."""

from __future__ import annotations

import h11
import pytest
import trio

from infermesh.testing.h11_client import H11Client
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer


async def _answer(request: PeerRequest, response: PeerResponse) -> None:
    match request.target:
        case "/echo":
            await response.send(request.body, headers=[(b"x-method", request.method.encode())])
        case "/events":
            await response.start(200, [(b"transfer-encoding", b"chunked")])
            for piece in (b"data: one\n", b"\ndata: two\n\nda", b"ta: [DONE]\n\n"):
                await response.write(piece)
            await response.finish()
        case _:
            await response.start(200, [(b"content-length", b"10")])
            await response.write(b"short")
            await response.abort()


async def test_it_fetches_twice_over_one_connection() -> None:
    async with trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, _answer)
        async with await H11Client.dial((peer.host, peer.port)) as client:
            first = await client.fetch("POST", "/echo", b"hello")
            second = await client.fetch("POST", "/echo", b"again")
        assert (first.status, first.headers["x-method"], first.body) == (200, "POST", b"hello")
        assert second.body == b"again"
        assert peer.connections == 1
        nursery.cancel_scope.cancel()


async def test_it_puts_events_together_across_pieces() -> None:
    async with trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, _answer)
        async with await H11Client.dial((peer.host, peer.port)) as client:
            await client.send("GET", "/events")
            await client.head()
            assert [event async for event in client.events()] == ["one", "two", "[DONE]"]
        nursery.cancel_scope.cancel()


async def test_a_body_that_ends_early_is_an_error() -> None:
    async with trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, _answer)
        async with await H11Client.dial((peer.host, peer.port)) as client:
            with pytest.raises(h11.RemoteProtocolError):
                await client.fetch("GET", "/broken")
        nursery.cancel_scope.cancel()


async def test_leaving_with_a_reset_reaches_the_other_side() -> None:
    async with trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, _answer)
        client = await H11Client.dial((peer.host, peer.port))
        await client.fetch("POST", "/echo", b"x")
        client.reset()
        await peer.wait_nobody()
        nursery.cancel_scope.cancel()
