"""The serving side over real sockets: whole requests in, answers in order, and a clear end for everything bad."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from infermesh.net.body_budget import BodyBudget
from infermesh.net.connection import BACKLOG_HIGH_BYTES, READ_BYTES, ConnectionLost
from infermesh.net.http1 import Refusal, Request, ServerConnection, ServerLimits, SlowCall
from infermesh.testing.reactors import running_reactor
from infermesh.testing.waiting import wait_until


@dataclass
class Served:
    """One connection whose task answers each request with its own body, and what became of it."""

    client: trio.SocketStream
    connection: ServerConnection
    requests: list[Request]
    refusals: list[Refusal]
    ended: trio.Event = field(default_factory=trio.Event)


@asynccontextmanager
async def served(limits: ServerLimits | None = None, *, answering: bool = True) -> AsyncIterator[Served]:
    async with running_reactor() as running:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        refusals: list[Refusal] = []

        def refuse(refusal: Refusal) -> bytes:
            refusals.append(refusal)
            return b"HTTP/1.1 %d X\r\nconnection: close\r\n\r\n" % refusal.status

        requests: list[Request] = []

        def answer(connection: ServerConnection, request: Request) -> None:
            requests.append(request)
            if answering:
                connection.respond(200, [], request.body, method=request.head.method)

        connection = ServerConnection(
            ours, running.reactor, running.timers, limits or ServerLimits(), answer=answer, refuse=refuse
        )
        client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        held = Served(client, connection, requests, refusals)

        async def serve() -> None:
            try:
                with connection.scope:
                    await connection.serve()
            except ConnectionLost:
                pass
            finally:
                connection.abort()
                held.ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with trio.fail_after(10):
                yield held
                await client.aclose()
                await held.ended.wait()


async def read_all(client: trio.SocketStream) -> bytes:
    data = b""
    async for piece in client:
        data += piece
    return data


async def read_until(client: trio.SocketStream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = await client.receive_some()
        assert piece, f"closed after {data!r}"
        data += piece
    return data


def post(body: bytes, *lines: bytes) -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"POST / HTTP/1.1\r\nhost: a\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


async def test_requests_on_one_connection_are_answered_in_order_even_when_pipelined() -> None:
    async with served() as held:
        await held.client.send_all(post(b"one") + post(b"two") + post(b"three"))
        data = await read_until(held.client, b"three")
        assert data.count(b"HTTP/1.1 200 OK") == 3
        assert data.index(b"one") < data.index(b"two") < data.index(b"three")


async def test_a_request_that_comes_byte_by_byte_is_one_request() -> None:
    async with served() as held:
        for byte in post(b"abc"):
            await held.client.send_all(bytes([byte]))
        assert (await read_until(held.client, b"abc")).endswith(b"\r\n\r\nabc")
        assert [request.body for request in held.requests] == [b"abc"]


async def test_a_chunked_request_arrives_without_its_chunks() -> None:
    async with served() as held:
        await held.client.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        await held.client.send_all(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n" + post(b"next"))
        await read_until(held.client, b"next")
        assert [request.body for request in held.requests] == [b"abcde", b"next"]


async def test_expect_100_continue_is_answered_before_the_body() -> None:
    async with served() as held:
        await held.client.send_all(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await read_until(held.client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await held.client.send_all(b"ok")
        await read_until(held.client, b"ok")


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GARBAGE\r\n\r\n", 400, "malformed"),
        (b"GET / HTTP/1.1\nhost: a\n\n", 400, "malformed"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 70_000, 431, "head_oversized"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414, "head_oversized"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 999\r\n\r\n", 413, "body_oversized"),
        (post(b"x", b"transfer-encoding: chunked"), 400, "smuggling"),
        (post(b"x", b"content-length: 1"), 400, "smuggling"),
        (post(b"x", b"expect: a-miracle"), 417, "expectation"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", 400, "malformed"),
    ],
)
async def test_a_bad_request_is_answered_counted_and_the_connection_ends(data: bytes, status: int, reason: str) -> None:
    async with served(ServerLimits(body_bytes_max=100)) as held:
        await held.client.send_all(data + post(b"smuggled"))
        answer = await read_all(held.client)
        assert answer == b"HTTP/1.1 %d X\r\nconnection: close\r\n\r\n" % status
        assert [refusal.reason for refusal in held.refusals] == [reason]
        assert held.requests == []


async def test_a_chunked_body_over_the_limit_is_refused_although_it_never_said_its_size() -> None:
    async with served(ServerLimits(body_bytes_max=100)) as held:
        await held.client.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await held.client.send_all(b"ff\r\n" + b"x" * 255 + b"\r\n")
        assert [refusal.reason for refusal in held.refusals] == ["body_oversized"]


@pytest.mark.parametrize(("size", "status"), [(400, 200), (401, 503)])
async def test_bodies_of_all_connections_have_a_bound_together(size: int, status: int) -> None:
    limits = ServerLimits(bodies=BodyBudget(1000))
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
    async with served(limits) as other, served(limits) as held:
        await other.client.send_all(head % 700 + bytes(600))
        await wait_until(lambda: limits.bodies.held_bytes == 600, "the one body is kept")
        await held.client.send_all(head % size)
        await wait_until(lambda: held.connection.bytes_in > 0, "its head was read alone")
        await held.client.send_all(bytes(size))
        got = await held.client.receive_some()
        assert got.startswith(b"HTTP/1.1 %d " % status), (got, held.refusals, held.connection.closed)
        assert [refusal.reason for refusal in held.refusals] == (["bodies_in_flight"] if status == 503 else [])
        assert limits.bodies.held_bytes == 600, "an answered request keeps nothing"
    assert limits.bodies.held_bytes == 0, "a lost one neither"


async def test_a_body_counts_until_its_request_has_been_answered() -> None:
    limits = ServerLimits()
    async with served(limits, answering=False) as held:
        await held.client.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n")
        await wait_until(lambda: limits.bodies.held_bytes == 4, "a part of it is kept")
        await held.client.send_all(b"0\r\n\r\n")
        await wait_until(lambda: bool(held.requests), "it is under way")
        assert limits.bodies.held_bytes == 4
        held.connection.respond(200, [])
        assert limits.bodies.held_bytes == 0


@pytest.mark.parametrize(("size", "status"), [(50_000, 200), (50_001, 413)])
async def test_the_limit_of_a_body_is_of_its_payload_however_small_its_chunks(size: int, status: int) -> None:
    async with served(ServerLimits(body_bytes_max=50_000)) as held:
        await held.client.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        await held.client.send_all(b"1\r\nx\r\n" * size + b"0\r\n\r\n")
        got = await held.client.receive_some()
        assert got.startswith(b"HTTP/1.1 %d " % status), (got, held.refusals, held.connection.closed)


@pytest.mark.parametrize(("size", "status"), [(1_000, 200), (1_001, 431)])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_head_may_be_as_large_as_it_was_set(size: int, status: int, *, whole: bool) -> None:
    start = b"GET / HTTP/1.1\r\nhost: a\r\nx: "
    head = start + b"y" * (size - len(start) - 4) + b"\r\n\r\n"
    async with served(ServerLimits(head_bytes_max=1_000)) as held:
        if whole:
            await held.client.send_all(head)
        else:
            await held.client.send_all(head[:500])
            await wait_until(lambda: held.connection.bytes_in == 500, "the first half was read alone")
            await held.client.send_all(head[500:])
        got = await held.client.receive_some()
        assert got.startswith(b"HTTP/1.1 %d " % status), (got, held.refusals, held.connection.closed)


async def test_a_slow_head_is_cut_at_its_time_however_many_bytes_trickle_in() -> None:
    async with served(ServerLimits(head_timeout_s=0.1)) as held:
        with trio.move_on_after(2):
            for byte in b"GET / HTTP/1.1\r\nhost: " + b"a" * 100:
                try:
                    await held.client.send_all(bytes([byte]))
                    await trio.sleep(0.02)
                except trio.BrokenResourceError:
                    break
        assert [refusal.reason for refusal in held.refusals] == ["head_timed_out"]


async def test_a_body_that_stops_is_cut() -> None:
    async with served(ServerLimits(body_timeout_s=0.1)) as held:
        await held.client.send_all(post(b"x" * 50)[:-10])
        assert (await read_all(held.client)).startswith(b"HTTP/1.1 408")
        assert [refusal.reason for refusal in held.refusals] == ["body_timed_out"]


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with served(ServerLimits(idle_timeout_s=0.1)) as held:
        assert await read_all(held.client) == b""
        assert held.refusals == []


async def test_a_client_that_closes_inside_its_request_is_counted_as_truncated() -> None:
    async with served() as held:
        await held.client.send_all(post(b"abc")[:-1])
        await held.client.send_eof()
        await held.ended.wait()
        assert [refusal.reason for refusal in held.refusals] == ["truncated"]


@pytest.mark.parametrize("half", [True, False])
async def test_a_client_that_leaves_cancels_the_task_that_works_for_it(*, half: bool) -> None:
    async with served(answering=False) as held:
        await held.client.send_all(post(b"abc"))
        await trio.testing.wait_all_tasks_blocked()
        if half:
            await held.client.send_eof()
        else:
            await held.client.aclose()
        await held.ended.wait()
        assert len(held.requests) == 1


async def test_a_defect_in_the_work_of_a_lost_connection_is_reported_and_goes_no_further() -> None:
    class Broken:
        def on_connection_lost(self) -> None:
            raise ZeroDivisionError("a defect")

    async with served(answering=False) as held:
        crashes = list[Exception]()
        held.connection.reactor.on_crash = crashes.append
        await held.client.send_all(post(b"abc"))
        await trio.testing.wait_all_tasks_blocked()
        held.connection.work = Broken()
        held.connection.scope.cancel()  # trio itself calls the parked task's abort function.
        await held.ended.wait()
        assert [type(error) for error in crashes] == [ZeroDivisionError]


async def test_a_client_that_takes_no_output_is_cut() -> None:
    async with served(ServerLimits(send_timeout_s=0.1, body_bytes_max=8 << 20), answering=False) as held:
        await held.client.send_all(post(b"abc"))
        await trio.testing.wait_all_tasks_blocked()
        held.connection.write(b"x" * (4 << 20))
        await held.ended.wait()
        assert [refusal.reason for refusal in held.refusals] == ["send_timed_out"]


async def test_http_1_0_and_connection_close_end_the_connection_after_the_answer() -> None:
    for request in (b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"):
        async with served() as held:
            await held.client.send_all(request)
            answer = await read_all(held.client)
            assert b"connection: close\r\n" in answer


async def test_a_client_that_pipelines_cheap_requests_lets_other_tasks_run_in_between() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with served() as held, trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await held.client.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * 1000)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 1000:
            answers += await held.client.receive_some()
        assert turns > 1000 / 16
        nursery.cancel_scope.cancel()


async def test_pipelined_requests_beyond_their_turn_wait_in_the_kernel_and_not_in_memory() -> None:
    count, held_bytes = 8_000, 0
    async with served() as held, trio.open_nursery() as nursery:
        nursery.start_soon(held.client.send_all, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" * count)
        answered = 0
        while answered < count:
            answered += (await held.client.receive_some()).count(b"HTTP/1.1 200")
            held_bytes = max(held_bytes, len(held.connection._buffer))
    assert held_bytes <= 2 * READ_BYTES


async def test_a_client_that_asks_without_reading_is_not_answered_from_memory_and_is_cut() -> None:
    peak_bytes = 0
    async with served(ServerLimits(send_timeout_s=0.2)) as held:
        request = post(b"x" * 5_000)
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await held.client.send_all(request)
                peak_bytes = max(peak_bytes, held.connection.backlog_len)
        assert [refusal.reason for refusal in held.refusals] == ["send_timed_out"]
    assert 0 < peak_bytes <= BACKLOG_HIGH_BYTES


async def test_the_time_for_sending_runs_on_when_the_answer_is_whole() -> None:
    async with served(ServerLimits(send_timeout_s=0.1), answering=False) as held:
        await held.client.send_all(post(b"one") + post(b"two"))
        await trio.testing.wait_all_tasks_blocked()
        while held.connection.backlog_len == 0:
            held.connection.write(b"x" * 4_000)
        held.connection.finish()
        await held.ended.wait()
        assert [request.body for request in held.requests] == [b"one"]
        assert [refusal.reason for refusal in held.refusals] == ["send_timed_out"]


async def test_the_next_request_is_taken_up_when_the_client_has_read_the_answer() -> None:
    async with served(answering=False) as held:
        await held.client.send_all(post(b"one") + post(b"two"))
        await trio.testing.wait_all_tasks_blocked()
        size = 0
        while held.connection.backlog_len == 0:
            held.connection.write(b"x" * 4_000)
            size += 4_000
        held.connection.finish()
        assert len(held.requests) == 1
        while size:
            size -= len(await held.client.receive_some(size))
        await trio.testing.wait_all_tasks_blocked()
        assert [request.body for request in held.requests] == [b"one", b"two"]
        held.connection.scope.cancel()


async def test_a_slow_reader_of_a_last_answer_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infermesh.net.http1.server._LINGER_S", 0.05)
    async with served(answering=False) as held:
        await held.client.send_all(post(b"x", b"connection: close"))
        await trio.testing.wait_all_tasks_blocked()
        held.connection.respond(200, [], b"y" * (1 << 20))
        assert held.connection.backlog_len > 0
        await trio.sleep(0.15)
        assert (await read_all(held.client)).count(b"y") == 1 << 20


async def test_what_must_be_waited_for_runs_in_the_connections_task() -> None:
    async with running_reactor() as running:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)

        def answer(connection: ServerConnection, request: Request) -> SlowCall:
            async def slow() -> None:
                await trio.sleep(0.01)
                connection.respond(200, [], request.body)

            return slow

        connection = ServerConnection(
            ours, running.reactor, running.timers, ServerLimits(), answer=answer, refuse=lambda _: b""
        )
        client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.serve)
            await client.send_all(post(b"one") + post(b"two"))
            assert (await read_until(client, b"two")).count(b"HTTP/1.1 200") == 2
            nursery.cancel_scope.cancel()
        await client.aclose()


async def test_requests_beyond_the_pipelining_bound_wait_in_the_kernel() -> None:
    async with served(answering=False) as held:
        await held.client.send_all(post(b"first"))
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.2):
            while True:
                await held.client.send_all(post(b"x" * 10_000))
        assert held.connection.paused
        held.connection.scope.cancel()
