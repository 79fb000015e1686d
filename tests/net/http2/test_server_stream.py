"""Streams of the serving side: bodies read as they come, back-pressure, what waits, and how each ends."""

from __future__ import annotations

import h2.errors
import pytest
import trio

from infermesh.net.asker import Request, SlowCall
from infermesh.net.connection import ConnectionLost
from infermesh.net.http2 import Http2ServerStream
from infermesh.net.http2.stream import QUEUED_HIGH_BYTES, QUEUED_LOW_BYTES
from infermesh.testing.h2_peer import H2Client
from tests.net.http2.serving import Served, serving
from wire.http1 import Field
from wire.http2 import Http2Config, Role

CANCEL = h2.errors.ErrorCodes.CANCEL
INTERNAL_ERROR = h2.errors.ErrorCodes.INTERNAL_ERROR


class Reader:
    """Keeps what it gets, and gives credit at once unless it is `slow`."""

    def __init__(self, stream: Http2ServerStream, *, slow: bool = False) -> None:
        self.stream = stream
        self.slow = slow
        self.data = bytearray()
        self.pieces = 0
        self.owed = 0
        self.ended = False
        self.trailers: list[Field] = []
        self.drained = 0

    def on_data(self, data: bytes, flow_bytes: int, *, end: bool) -> None:
        self.data += data
        self.pieces += 1
        self.ended = end
        if self.slow:
            self.owed += flow_bytes
        else:
            self.stream.credit(flow_bytes)

    def on_trailers(self, fields: list[Field]) -> None:
        self.trailers = fields
        self.ended = True

    def on_drained(self) -> None:
        self.drained += 1


class Readers:
    """Opens every stream with a reader."""

    def __init__(self, *, slow: bool = False) -> None:
        self.slow = slow
        self.made: list[Reader] = []

    def __call__(self, stream: Http2ServerStream) -> Reader:
        self.made.append(Reader(stream, slow=self.slow))
        return self.made[-1]


class Working:
    """Work that counts what it hears."""

    def __init__(self) -> None:
        self.lost = 0

    def on_connection_lost(self) -> None:
        self.lost += 1


class Source:
    def __init__(self) -> None:
        self.paused = False
        self.pauses = 0
        self.resumes = 0

    def pause(self) -> None:
        assert not self.paused
        self.paused = True
        self.pauses += 1

    def resume(self) -> None:
        self.paused = False
        self.resumes += 1


# --- readers ---


async def test_a_reader_gets_the_body_as_it_comes() -> None:
    readers = Readers()
    async with serving(open_stream=readers) as served, await H2Client.dial(served.address) as client:
        stream_id = await client.ask("POST", "/", b"first", end=False)
        await served.wait_until(lambda: bool(readers.made) and readers.made[0].data == b"first")
        reader = readers.made[0]
        assert not reader.ended
        await client.send_data(stream_id, b"second", end=True)
        await served.wait_until(lambda: reader.ended)
        assert bytes(reader.data) == b"firstsecond"
        reader.stream.send_head([(b":status", b"200")])
        reader.stream.send_data(b"done", end=True)
        reader.stream.finish()
        assert bytes((await client.answer(stream_id)).body) == b"done"


async def test_a_reader_of_a_request_without_a_body_is_told_its_end() -> None:
    readers = Readers()
    async with serving(open_stream=readers) as served, await H2Client.dial(served.address) as client:
        await client.ask("GET", "/")
        await served.wait_until(lambda: bool(readers.made))
        assert (readers.made[0].ended, readers.made[0].pieces) == (True, 1)


async def test_a_reader_is_told_the_trailers() -> None:
    readers = Readers()
    async with serving(open_stream=readers) as served, await H2Client.dial(served.address) as client:
        stream_id = await client.ask("POST", "/", b"body", end=False)
        await client.send_headers(stream_id, [("x-sum", "1")], end=True)
        await served.wait_until(lambda: bool(readers.made) and readers.made[0].ended)
        assert readers.made[0].trailers == [(b"x-sum", b"1")]


async def test_trailers_end_a_body_that_is_collected() -> None:
    async with serving() as served, await H2Client.dial(served.address) as client:
        stream_id = await client.ask("POST", "/echo", b"body", end=False)
        await client.send_headers(stream_id, [("x-sum", "1")], end=True)
        assert bytes((await client.answer(stream_id)).body) == b"body"


async def test_a_reader_that_gives_no_credit_stops_its_client_and_no_other_stream() -> None:
    readers = Readers(slow=True)

    def open_stream(stream: Http2ServerStream) -> Reader | None:
        return readers(stream) if stream.head.path == b"/slow-reader" else None

    async with serving(open_stream=open_stream) as served, await H2Client.dial(served.address) as client:
        await client.read_until(lambda: bool(client.settings))
        slow = await client.ask("POST", "/slow-reader", end=False)
        sent = 0
        while room := client.machine.local_flow_control_window(slow):
            await client.send_data(slow, b"x" * min(room, 16_384))
            sent += min(room, 16_384)
        assert bytes((await client.fetch("POST", "/echo", b"y" * 3_000_000)).body) == b"y" * 3_000_000
        reader = readers.made[0]
        await served.wait_until(lambda: len(reader.data) == sent)
        reader.stream.credit(reader.owed)
        await client.read_until(lambda: client.machine.local_flow_control_window(slow) == sent)


async def test_a_paused_stream_keeps_the_credit_until_it_is_resumed() -> None:
    readers = Readers()
    async with serving(open_stream=readers) as served, await H2Client.dial(served.address) as client:
        await client.read_until(lambda: bool(client.settings))
        stream_id = await client.ask("POST", "/", b"x", end=False)
        await served.wait_until(lambda: bool(readers.made) and readers.made[0].data == b"x")
        stream = readers.made[0].stream
        stream.pause()
        window = client.machine.local_flow_control_window(stream_id)
        while room := client.machine.local_flow_control_window(stream_id):
            await client.send_data(stream_id, b"x" * min(room, 16_384))
        await served.wait_until(lambda: len(readers.made[0].data) == window + 1)
        stream.resume()
        await client.read_until(lambda: client.machine.local_flow_control_window(stream_id) == window + 1)


async def test_credit_that_nobody_gave_is_given_when_the_stream_ends() -> None:
    readers = Readers(slow=True)
    config = Http2Config(role=Role.SERVER, window_bytes=65_535, connection_window_bytes=100_000)
    async with (
        serving(open_stream=readers, config=config) as served,
        await H2Client.dial(served.address) as client,
    ):
        await client.read_until(lambda: bool(client.settings))
        for _ in range(10):  # Many times the window of the connection.
            stream_id = await client.ask("POST", "/", b"x" * 60_000, end=False)
            await client.reset(stream_id)
        await client.ask("GET", "/")
        await served.wait_until(lambda: len(readers.made) == 11)
        assert all(reader.stream.closed for reader in readers.made[:10])


# --- output ---


async def test_a_source_is_paused_while_the_client_takes_no_more() -> None:
    readers = Readers()
    async with (
        serving(open_stream=readers) as served,
        await H2Client.dial(served.address, credits=False) as client,
    ):
        stream_id = await client.ask("GET", "/")
        await served.wait_until(lambda: bool(readers.made))
        stream, source = readers.made[0].stream, Source()
        stream.send_head([(b":status", b"200")])
        total = 0
        while not source.paused:
            stream.write_from(b"x" * 10_000, source)
            total += 10_000
        assert total <= 65_535 + QUEUED_HIGH_BYTES + 10_000  # The client's window, and what may be queued.
        await client.read_until(lambda: len(client.of(stream_id).body) == 65_535)
        assert readers.made[0].drained == 0
        assert stream.queued_bytes > QUEUED_LOW_BYTES
        client.machine.acknowledge_received_data(65_535, stream_id)
        client.credits = True
        await client.flush()
        await client.read_until(lambda: len(client.of(stream_id).body) == total)
        assert (source.pauses, source.resumes, readers.made[0].drained) == (1, 1, 1)


async def test_a_task_waits_in_drain_until_there_is_room() -> None:
    passed: list[int] = []

    def answer(stream: Http2ServerStream, request: Request) -> SlowCall:
        async def call() -> None:
            stream.send_head([(b":status", b"200")])
            for number in range(50):
                stream.send_data(b"x" * 10_000)
                await stream.drain()
                passed.append(number)
            stream.send_data(b"", end=True)
            stream.finish()

        return call

    async with serving(answer) as served, await H2Client.dial(served.address, credits=False) as client:
        stream_id = await client.ask("GET", "/")
        await client.read_until(lambda: len(client.of(stream_id).body) == 65_535)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert 5 < len(passed) < 20
        client.credits = True
        client.machine.acknowledge_received_data(65_535, stream_id)
        await client.flush()
        assert len((await client.answer(stream_id)).body) == 500_000


async def test_the_death_of_the_connection_ends_a_wait_in_drain() -> None:
    ended: list[BaseException] = []

    def answer(stream: Http2ServerStream, request: Request) -> SlowCall:
        async def call() -> None:
            stream.send_head([(b":status", b"200")])
            stream.send_data(b"x" * 1_000_000)
            try:
                await stream.drain()
            except BaseException as error:
                ended.append(error)
                raise

        return call

    async with serving(answer) as served:
        async with await H2Client.dial(served.address, credits=False) as client:
            await client.ask("GET", "/")
            await client.read_until(lambda: len(client.of(1).body) == 65_535)
        await served.wait_until(lambda: bool(ended))
        assert isinstance(ended[0], trio.Cancelled | ConnectionLost)


# --- endings ---


async def _open_with_work(served: Served, client: H2Client, count: int = 1) -> list[Working]:
    for _ in range(count):
        await client.ask("GET", "/never")
    await served.wait_until(lambda: len(served.streams) == count)
    works = []
    for stream in served.streams:
        works.append(Working())
        stream.work = works[-1]
    return works


async def test_a_reset_by_the_client_is_told_to_the_work_once() -> None:
    async with serving() as served, await H2Client.dial(served.address) as client:
        (work,) = await _open_with_work(served, client)
        await client.reset(1)
        await served.wait_until(lambda: work.lost == 1)
        assert served.streams[0].closed
        assert (await client.fetch("GET", "/")).status == 200
    assert work.lost == 1
    assert served.faults == []


async def test_the_end_of_the_connection_is_told_to_the_work_of_every_stream_once() -> None:
    async with serving() as served:
        async with await H2Client.dial(served.address) as client:
            works = await _open_with_work(served, client, 5)
        await served.wait_until(lambda: all(work.lost for work in works))
    assert [work.lost for work in works] == [1] * 5


async def test_work_hears_nothing_after_the_answer() -> None:
    async with serving() as served:
        async with await H2Client.dial(served.address) as client:
            (work,) = await _open_with_work(served, client)
            served.streams[0].respond(200, [], b"at last")
            assert bytes((await client.answer(1)).body) == b"at last"
            served.streams[0].finish()
            served.streams[0].lose("too late")
        await served.wait_until(lambda: bool(served.endings))
    assert work.lost == 0


async def test_what_is_said_to_a_stream_that_is_gone_is_dropped() -> None:
    async with serving() as served, await H2Client.dial(served.address) as client:
        await client.ask("GET", "/never")
        await served.wait_until(lambda: bool(served.streams))
        stream = served.streams[0]
        await client.reset(1)
        await served.wait_until(lambda: stream.closed)
        stream.respond(200, [], b"body")
        stream.send_head([(b":status", b"200")])
        stream.send_data(b"data", source=Source())
        stream.send_trailers([(b"a", b"b")])
        stream.credit(10)
        stream.pause()
        stream.resume()
        stream.reset(CANCEL)
        assert stream.queued_bytes == 0
        with pytest.raises(ConnectionLost):
            await stream.drain()
        assert (await client.fetch("GET", "/")).status == 200


async def test_a_reset_cancels_what_the_stream_waits_for_and_nothing_else() -> None:
    started: list[int] = []
    cancelled: list[int] = []

    def answer(stream: Http2ServerStream, request: Request) -> SlowCall:
        async def call() -> None:
            started.append(stream.stream_id)
            try:
                await trio.sleep_forever()
            finally:
                cancelled.append(stream.stream_id)

        return call

    async with serving(answer) as served:
        async with await H2Client.dial(served.address) as client:
            for _ in range(3):
                await client.ask("GET", "/")
            await served.wait_until(lambda: len(started) == 3)
            await client.reset(3)
            await served.wait_until(lambda: bool(cancelled))
            assert cancelled == [3]
        await served.wait_until(lambda: len(cancelled) == 3)


async def test_calls_of_one_stream_run_one_after_the_other() -> None:
    order: list[str] = []

    def answer(stream: Http2ServerStream, request: Request) -> SlowCall:
        async def first() -> None:
            order.append("first begins")
            stream.hand_over(second)
            await trio.sleep(0)
            order.append("first ends")

        async def second() -> None:
            order.append("second")
            stream.respond(200, [])

        return first

    async with serving(answer) as served, await H2Client.dial(served.address) as client:
        assert (await client.fetch("GET", "/")).status == 200
        assert order == ["first begins", "first ends", "second"]


async def test_calls_may_be_handed_over_once_more_after_the_first_have_ended() -> None:
    def answer(stream: Http2ServerStream, request: Request) -> SlowCall:
        async def nothing() -> None:
            await trio.sleep(0)

        return nothing

    async with serving(answer) as served, await H2Client.dial(served.address) as client:
        await client.ask("GET", "/")
        await served.wait_until(lambda: bool(served.streams) and not served.streams[0]._running)

        async def respond() -> None:
            served.streams[0].respond(200, [])

        served.streams[0].hand_over(respond)
        assert (await client.answer(1)).status == 200


async def test_the_task_of_an_answered_stream_runs_to_its_end() -> None:
    ran = trio.Event()

    def answer(stream: Http2ServerStream, request: Request) -> SlowCall:
        async def call() -> None:
            stream.respond(200, [])
            await trio.sleep(0.01)
            ran.set()

        return call

    async with serving(answer) as served, await H2Client.dial(served.address) as client:
        await client.fetch("GET", "/")
        await ran.wait()


async def test_cancelling_the_task_of_a_stream_resets_that_stream() -> None:
    def answer(stream: Http2ServerStream, request: Request) -> SlowCall:
        return trio.sleep_forever

    async with serving(answer) as served, await H2Client.dial(served.address) as client:
        for _ in range(2):
            await client.ask("GET", "/")
        await served.wait_until(lambda: len(served.streams) == 2)
        scope = served.streams[0].scope
        assert scope is not None
        scope.cancel()
        assert (await client.answer(1)).reset == CANCEL
        assert not served.streams[1].closed


async def test_an_asker_that_is_lost_while_it_waits_for_somebody_else_is_reset() -> None:
    def answer(stream: Http2ServerStream, request: Request) -> SlowCall:
        async def call() -> None:
            await trio.sleep(0)
            raise ConnectionLost("somebody else's")

        return call

    async with serving(answer) as served, await H2Client.dial(served.address) as client:
        assert (await client.fetch("GET", "/")).reset == CANCEL
