"""A defect in whoever asks: that exchange ends, is reported, and the others of its connection go on."""

from __future__ import annotations

import pytest
import trio

from infermesh.net.connection import ConnectionLost
from infermesh.net.http2 import Http2UpstreamStream
from infermesh.testing.h2_peer import H2Peer
from tests.net.http2.asking import Sink, asking, get, post
from wire.http1 import ResponseHead


class Defect(Exception):
    pass


class BrokenSink(Sink):
    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.hold = place == "on_first_bytes"

    def at(self, place: str) -> None:
        if place == self.place:
            raise Defect

    def on_interim(self, up: Http2UpstreamStream, head: ResponseHead) -> None:
        self.at("on_interim")

    def on_head(self, up: Http2UpstreamStream, head: ResponseHead) -> None:
        self.at("on_head")
        super().on_head(up, head)

    def on_first_bytes(self, up: Http2UpstreamStream) -> None:
        self.at("on_first_bytes")

    def on_body(self, up: Http2UpstreamStream, payload: bytes) -> None:
        self.at("on_body")

    def on_doubt(self, up: Http2UpstreamStream, why: str) -> None:
        self.at("on_doubt")

    def on_end(self, up: Http2UpstreamStream) -> None:
        super().on_end(up)
        self.at("on_end")

    def on_failed(self, up: Http2UpstreamStream, error: ConnectionLost) -> None:
        super().on_failed(up, error)
        self.at("on_failed")


@pytest.mark.parametrize(
    "place", ["on_interim", "on_head", "on_first_bytes", "on_body", "on_doubt", "on_end", "on_failed"]
)
async def test_a_defect_in_a_sink_ends_its_exchange_only(place: str) -> None:
    go_on = trio.Event()

    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: 3 in peer.streams)
        await go_on.wait()
        if place == "on_failed":
            await peer.reset(1)
        elif place != "on_doubt":
            await peer.send_headers(1, [(":status", "103")])
            await peer.send_headers(1, [(":status", "200")])
            await peer.send_data(1, b"body", end=True)
        await peer.send_headers(3, [(":status", "200")])
        await peer.send_data(3, b"other", end=True)
        await peer.read_until(lambda: False)

    async with asking(script) as here:
        hit, other = BrokenSink(place), Sink()
        up = await here.stream()
        up.open(get(), hit)
        (await here.stream()).open(post(), other)
        if place == "on_doubt":
            here.pool.doubt("for no reason")
        go_on.set()
        await other.ended.wait()
        await hit.ended.wait()
        assert bytes(other.body) == b"other"
        assert up.closed
        assert hit.ends + len(hit.failures) == 1
        assert [type(error) for error in here.running.crashes] == [Defect]
        here.running.crashes.clear()
