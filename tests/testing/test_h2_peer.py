"""The tests' own HTTP/2 client, against the tests' own HTTP/2 server."""

from __future__ import annotations

import h2.errors
import trio

from infermesh.testing.h2_peer import H2Client, H2Peer, H2Server


async def _answer(peer: H2Peer) -> None:
    await peer.read_until(lambda: 1 in peer.streams and peer.of(1).ended)
    asked = peer.of(1)
    await peer.send_headers(1, [(":status", "103")])
    await peer.send_headers(1, [(":status", "200"), ("x-method", asked.headers[":method"])])
    await peer.send_data(1, bytes(asked.body))
    await peer.send_headers(1, [("x-sum", "1")], end=True)
    await peer.read_until(lambda: peer.of(3).ended)
    await peer.reset(3, h2.errors.ErrorCodes.REFUSED_STREAM)
    await peer.read_until(lambda: False)


async def test_a_client_and_a_server_keep_what_came_on_each_stream() -> None:
    server = H2Server(_answer, settings={3: 7})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        with trio.fail_after(10):
            async with await H2Client.dial(server.address) as client:
                body = b"more than one window" * 10_000
                first = await client.fetch("POST", "/", body)
                second = await client.fetch("GET", "/")
                assert (first.status, bytes(first.body), first.trailers) == (200, body, {"x-sum": "1"})
                assert (first.headers["x-method"], first.interim) == ("POST", [{":status": "103"}])
                assert (second.reset, second.ended) == (h2.errors.ErrorCodes.REFUSED_STREAM, False)
                assert (client.settings[3], server.connections) == (7, 1)
        nursery.cancel_scope.cancel()


async def test_a_client_that_gives_no_credit_stops_the_server_at_the_window() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: bool(peer.streams))
        await peer.send_headers(1, [(":status", "200")])
        await peer.send_data(1, b"x" * 100_000, end=True)

    server = H2Server(script)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        with trio.fail_after(10):
            async with await H2Client.dial(server.address, credits=False) as client:
                await client.ask("GET", "/")
                await client.read_until(lambda: len(client.of(1).body) == 65_535)
                client.credits = True
                client.machine.acknowledge_received_data(65_535, 1)
                await client.flush()
                assert len((await client.answer(1)).body) == 100_000
        nursery.cancel_scope.cancel()
