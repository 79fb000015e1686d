"""A defect at every place where a connection calls somebody else: that stream ends, is reported, and nothing else ends.

Beside each broken stream there is another one on its connection, which is answered afterwards, and the listener takes
a new connection.
"""

from __future__ import annotations

from typing import cast

import outcome
import pytest
import trio

from infermesh.net.asker import Request, SlowCall
from infermesh.net.http1 import Refusal, ServerLimits
from infermesh.net.http2 import Http2ServerStream
from infermesh.testing.h2_peer import H2Client
from tests.net.http2.serving import Served, serving
from wire.http1 import Field
from wire.http2 import Event, Http2Connection


class Defect(Exception):
    pass


def broken() -> None:
    raise Defect


class BrokenAt:
    """Service, reader, work and source in one, each doing its part but for `place`, where it breaks."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.reader: BrokenReader | None = None

    def at(self, place: str) -> None:
        if place == self.place:
            raise Defect

    def open_stream(self, stream: Http2ServerStream) -> BrokenReader | None:
        if stream.head.path != b"/broken":
            return None
        self.at("open_stream")
        if self.place.startswith(("reader", "work", "source")):
            self.reader = BrokenReader(self, stream)
            stream.work = self.reader
            return self.reader
        return None

    def answer(self, stream: Http2ServerStream, request: Request) -> SlowCall | None:
        if stream.head.path != b"/broken":
            stream.respond(200, [], b"other")
            return None
        self.at("answer")

        async def call() -> None:
            self.at("call begins")
            await trio.sleep(0)
            self.at("call goes on")
            stream.respond(200, [])
            self.at("call after its answer")
            broken()

        return call

    def refuse(self, stream: Http2ServerStream, refusal: Refusal) -> None:
        self.at("refuse")


class BrokenReader:
    def __init__(self, broken_at: BrokenAt, stream: Http2ServerStream) -> None:
        self._broken = broken_at
        self._stream = stream

    def on_data(self, data: bytes, flow_bytes: int, *, end: bool) -> None:
        self._broken.at("reader on_data")
        self._stream.credit(flow_bytes)
        self._stream.send_head([(b":status", b"200")])
        source = self if self._broken.place.startswith("source") else None
        while not self._stream._held_back:
            self._stream.send_data(b"x" * 10_000, source=source)

    def on_trailers(self, fields: list[Field]) -> None:
        self._broken.at("reader on_trailers")

    def on_drained(self) -> None:
        self._broken.at("reader on_drained")

    def on_connection_lost(self) -> None:
        self._broken.at("work on_connection_lost")

    def pause(self) -> None:
        self._broken.at("source pause")

    def resume(self) -> None:
        self._broken.at("source resume")


PLACES = [
    "open_stream",
    "answer",
    "call begins",
    "call goes on",
    "call after its answer",
    "reader on_data",
    "reader on_trailers",
    "reader on_drained",
    "work on_connection_lost",
    "source pause",
    "source resume",
]


@pytest.mark.parametrize("place", PLACES)
async def test_a_defect_on_the_serving_side_ends_its_stream_only(place: str) -> None:
    service = BrokenAt(place)
    async with (
        serving(service.answer, open_stream=service.open_stream) as served,
        await H2Client.dial(served.address, credits=False) as client,
    ):
        other = await client.ask("POST", "/other", b"begun", end=False)
        stream_id = await client.ask("POST", "/broken", b"data", end=False)
        await client.send_headers(stream_id, [("a", "trailer")], end=True)
        if place in ("reader on_drained", "source resume"):
            await client.read_until(lambda: len(client.of(stream_id).body) == 65_535)
            client.machine.acknowledge_received_data(65_535, stream_id)
            client.credits = True
            await client.flush()
        if place == "work on_connection_lost":
            await client.read_until(lambda: len(client.of(stream_id).body) == 65_535)
            await client.reset(stream_id)
            client.machine.increment_flow_control_window(1_000_000)
            await client.flush()
        else:
            await _read_until_crash(served, client)
        await served.wait_until(lambda: bool(served.running.crashes))
        await _everything_else_lives(served, client, other)
        assert [type(error) for error in served.running.crashes] == [Defect]
        served.running.crashes.clear()


async def _read_until_crash(served: Served, client: H2Client) -> None:
    while not served.running.crashes:
        with trio.move_on_after(0.02):
            await client.read()


async def _everything_else_lives(served: Served, client: H2Client, other: int) -> None:
    client.credits = True
    await client.send_data(other, b"", end=True)
    assert bytes((await client.answer(other)).body) == b"other"
    async with await H2Client.dial(served.address) as another:
        assert bytes((await another.fetch("GET", "/other")).body) == b"other"


async def test_a_defect_in_a_refusal_that_time_has_brought_ends_its_stream_only() -> None:
    service = BrokenAt("refuse")
    limits = ServerLimits(body_timeout_s=0.02, body_rate_min=1e6)
    async with (
        serving(service.answer, limits=limits, refuse=service.refuse) as served,
        await H2Client.dial(served.address) as client,
    ):
        answer = await client.answer(await client.ask("POST", "/broken", b"data", end=False))
        assert answer.reset is not None
        assert bytes((await client.fetch("GET", "/other")).body) == b"other"
        assert [type(error) for error in served.running.crashes] == [Defect]
        served.running.crashes.clear()


async def test_a_defect_in_the_connection_itself_ends_that_connection_only() -> None:
    async with (
        serving() as served,
        await H2Client.dial(served.address) as client,
        await H2Client.dial(served.address) as bystander,
    ):
        await client.ask("GET", "/never")
        await bystander.fetch("GET", "/")
        await served.wait_until(lambda: len(served.streams) == 2)
        hit = served.streams[0].connection
        hit.wake(outcome.Error(Defect()))
        await client.read_until(lambda: False)
        assert (await bystander.fetch("GET", "/")).status == 200
        assert served.streams[0].closed
        assert served.endings == ["Defect()"]


async def test_a_defect_in_the_machine_ends_that_connection_only() -> None:
    class BrokenMachine:
        """All of a machine but for what it reads."""

        def __init__(self, machine: Http2Connection) -> None:
            self._machine = machine

        def receive(self, data: bytes, now: float) -> list[Event]:
            raise Defect

        def __getattr__(self, name: str) -> object:
            return getattr(self._machine, name)

    async with (
        serving() as served,
        await H2Client.dial(served.address) as client,
        await H2Client.dial(served.address) as bystander,
    ):
        await client.ask("GET", "/never")
        await served.wait_until(lambda: len(served.streams) == 1)
        hit = served.streams[0].connection
        hit.machine = cast(Http2Connection, BrokenMachine(hit.machine))
        await client.ask("GET", "/")
        await client.read_until(lambda: False)
        assert served.streams[0].closed
        assert (await bystander.fetch("GET", "/")).status == 200
        assert [type(error) for error in served.running.crashes] == [Defect]
        served.running.crashes.clear()


async def test_a_defect_beside_the_cancellation_of_a_nursery_ends_its_stream_only() -> None:
    """Such a one comes in a group with Cancelled, which is no Exception while its scope is inside."""
    under_way: list[bool] = []

    def answer(stream: Http2ServerStream, request: Request) -> SlowCall | None:
        if stream.head.path != b"/broken":
            stream.respond(200, [], b"other")
            return None

        async def fails_when_cancelled() -> None:
            try:
                under_way.append(True)
                await trio.sleep_forever()
            finally:
                broken()

        async def call() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fails_when_cancelled)

        return call

    async with serving(answer) as served, await H2Client.dial(served.address) as client:
        other = await client.ask("POST", "/other", b"begun", end=False)
        stream_id = await client.ask("POST", "/broken")
        await served.wait_until(lambda: bool(under_way))
        await client.reset(stream_id)
        await served.wait_until(lambda: bool(served.running.crashes))
        await _everything_else_lives(served, client, other)
        [group] = served.running.crashes
        assert isinstance(group, ExceptionGroup)
        served.running.crashes.clear()
