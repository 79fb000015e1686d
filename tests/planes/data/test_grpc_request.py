"""A call's request on its way: passed as it comes, kept to be repeated, credited once, and let go at the end."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

import h2.errors
import pytest
import trio
from trio.testing import MockClock

from infermesh.planes.data.grpc_request import GrpcRequest
from infermesh.testing.h2_peer import H2Peer
from infermesh.testing.waiting import wait_until
from tests.planes.data.calls import OK_END, OK_HEAD, answer_ok, hop, message, request_on, stay

REFUSED = h2.errors.ErrorCodes.REFUSED_STREAM


def answering(payload: bytes = b"fine") -> Callable[[H2Peer], Awaitable[None]]:
    """A runtime that answers one call after the other, each when it is whole."""

    async def script(peer: H2Peer) -> None:
        stream_id = 1
        while not peer.over:
            await request_on(peer, stream_id)
            if not peer.over:
                await answer_ok(peer, stream_id, payload)
            stream_id += 2

    return script


async def unavailable(peer: H2Peer) -> None:
    """Reads the call, and refuses it before a message of its own."""
    await request_on(peer)
    await peer.send_headers(1, [*OK_HEAD, ("grpc-status", "14"), ("grpc-message", "try another")], end=True)
    await stay(peer)


async def test_what_comes_goes_on_before_the_request_is_whole() -> None:
    seen: list[bytes] = []

    async def script(peer: H2Peer) -> None:
        await request_on(peer, size=8)
        seen.append(bytes(peer.of(1).body))
        await peer.send_headers(1, OK_HEAD)
        await peer.send_data(1, message(b"a"))
        stream = await request_on(peer)
        seen.append(bytes(stream.body))
        await peer.send_headers(1, OK_END, end=True)
        await stay(peer)

    async with hop(script) as between:
        client = between.client
        stream_id = await between.ask(message(b"abc"))
        answer = client.of(stream_id)
        await client.read_until(lambda: bool(answer.body))
        await client.send_data(stream_id, message(b"def"), end=True)
        await client.answer(stream_id)
    assert seen == [message(b"abc"), message(b"abc") + message(b"def")]
    assert answer.trailers == {"grpc-status": "0"}


async def test_a_request_in_many_pieces_is_tried_elsewhere_whole() -> None:
    bodies: list[bytes] = []

    async def second(peer: H2Peer) -> None:
        bodies.append(bytes((await request_on(peer)).body))
        await answer_ok(peer, 1)
        await stay(peer)

    pieces = [message(bytes([number]) * 1000) for number in range(100)]
    async with hop(unavailable, second) as between:
        stream_id = await between.ask()
        for piece in pieces:
            await between.client.send_data(stream_id, piece)
        await between.client.send_data(stream_id, b"", end=True)
        answer = await between.client.answer(stream_id)
        assert answer.trailers == {"grpc-status": "0"}
        assert between.host.ended == [("gpu-0", "server_error"), ("gpu-1", "ok")]
    assert bodies == [b"".join(pieces)]


async def test_what_has_come_when_the_first_target_fails_goes_to_the_second_and_the_rest_follows() -> None:
    failed = trio.Event()
    bodies: list[bytes] = []

    async def first(peer: H2Peer) -> None:
        await request_on(peer, size=8)
        await peer.reset(1, REFUSED)
        await stay(peer)

    async def refusing_again(peer: H2Peer) -> None:
        await first(peer)

    async def second(peer: H2Peer) -> None:
        await request_on(peer, size=8)
        failed.set()
        bodies.append(bytes((await request_on(peer)).body))
        await answer_ok(peer, 1)
        await stay(peer)

    async with hop(refusing_again, second) as between:
        stream_id = await between.ask(message(b"abc"))
        await failed.wait()
        await between.client.send_data(stream_id, message(b"def"), end=True)
        answer = await between.client.answer(stream_id)
        assert answer.trailers == {"grpc-status": "0"}
    assert bodies == [message(b"abc") + message(b"def")]


async def test_a_call_that_was_not_looked_at_is_sent_once_more_to_the_same_target_at_no_cost() -> None:
    """REFUSED_STREAM: no retry is charged, and nothing is held against the target."""
    refused: list[H2Peer] = []

    async def script(peer: H2Peer) -> None:
        if not refused:
            refused.append(peer)
            await request_on(peer)
            await peer.reset(1, REFUSED)
        else:
            await request_on(peer)
            await answer_ok(peer, 1)
        await stay(peer)

    async with hop(script) as between:
        between.host.retrying = False
        answer = await between.call(message(b"x"))
        assert answer.trailers == {"grpc-status": "0"}
        assert between.host.ended == [("gpu-0", "ok")]
        assert between.host.stale == 1


@pytest.mark.parametrize("heard", [False, True])
async def test_a_kept_connection_that_breaks_without_a_word_was_stale(*, heard: bool) -> None:
    """Once more to the same target. One by which anything came since the call began was alive: that is a fault."""
    connections = 0

    async def script(peer: H2Peer) -> None:
        nonlocal connections
        connections += 1
        await request_on(peer, 1)
        await answer_ok(peer, 1)
        if connections > 1:
            await stay(peer)
            return
        await request_on(peer, 3)
        if heard:
            peer.machine.ping(b"are you?")
            await peer.flush()
            await peer.read_until(lambda: peer.acked_pings == 1)

    async with hop(script) as between:
        between.host.retrying = False
        assert (await between.call(message(b"x"))).trailers == {"grpc-status": "0"}
        answer = await between.call(message(b"x"))
        said = {**answer.headers, **answer.trailers}
        assert said["grpc-status"] == ("14" if heard else "0")
        assert between.host.stale == (0 if heard else 1)
        assert between.host.ended == [("gpu-0", "ok"), ("gpu-0", "broken" if heard else "ok")]


async def test_past_its_limit_a_request_is_not_kept_and_has_the_one_attempt() -> None:
    first, second = bytes(600), bytes(600)

    async def failing(peer: H2Peer) -> None:
        await request_on(peer, size=1200)
        await peer.send_headers(1, [*OK_HEAD, ("grpc-status", "14"), ("grpc-message", "late")], end=True)
        await stay(peer)

    async with hop(failing, answering()) as between:
        between.bytes_max = 1000
        stream_id = await between.ask(first)
        await wait_until(lambda: between.requests[0].bytes_in == 600, "the first piece is kept")
        await wait_until(lambda: between.pools[0].open_len == 1 and not between.pools[0]._openings, "it has been sent")
        await between.client.send_data(stream_id, second)
        await wait_until(lambda: not between.requests[0].repeatable, "it is let go of")
        answer = await between.client.answer(stream_id)
        assert answer.headers["grpc-status"] == "14"
        assert answer.headers["grpc-message"] == "late"
        assert between.host.ended == [("gpu-0", "server_error")]


async def test_a_call_that_the_node_has_no_room_to_keep_goes_on_with_the_one_attempt() -> None:
    async with hop(answering(b"fine")) as between:
        stream_id = await between.ask(bytes(600))
        await wait_until(lambda: between.requests and between.requests[0].bytes_in == 600, "the first piece is kept")
        await wait_until(lambda: between.pools[0].open_len == 1 and not between.pools[0]._openings, "it has been sent")
        between.served.connections[0].limits.bodies.bytes_max = 1000
        await between.client.send_data(stream_id, bytes(600))
        await wait_until(lambda: not between.requests[0].repeatable, "it is let go of")
        assert between.served.connections[0].limits.bodies.held_bytes == 0
        await between.client.send_data(stream_id, b"", end=True)
        assert (await between.client.answer(stream_id)).trailers == {"grpc-status": "0"}


async def test_a_call_that_finds_no_room_before_anybody_has_it_is_refused() -> None:
    async with hop(answering()) as between:

        async def never(deadline: float, *, fresh: bool = False) -> object:
            return await trio.sleep_forever()

        between.pools[0].acquire = never  # type: ignore[method-assign, assignment]
        stream_id = await between.ask(bytes(600))
        await wait_until(lambda: between.requests and between.requests[0].bytes_in == 600, "the first piece is kept")
        between.served.connections[0].limits.bodies.bytes_max = 1000
        await between.client.send_data(stream_id, bytes(600))
        assert (await between.client.answer(stream_id)).status == 503
        assert between.served.faults == ["bodies_in_flight"]
        assert between.host.ended == [("gpu-0", "cancelled")]


async def test_a_client_gets_no_credit_for_more_than_is_kept_while_nobody_takes_it() -> None:
    async with hop(answering()) as between:
        between.bytes_max = 1000
        pool = between.pools[0]
        real = pool.acquire
        may_open = trio.Event()

        async def late(deadline: float, *, fresh: bool = False) -> object:
            await may_open.wait()
            return await real(deadline, fresh=fresh)

        pool.acquire = late  # type: ignore[method-assign, assignment]
        stream_id = await between.ask(bytes(1500))
        await wait_until(lambda: between.requests and between.requests[0].bytes_in == 1500, "it has come")
        assert between.requests[0]._withheld == 1500
        assert between.requests[0].repeatable
        may_open.set()
        await wait_until(lambda: between.requests[0]._withheld == 0, "it was sent, and the client has its credit")
        assert between.served.streams[0]._owed == 0
        await between.client.send_data(stream_id, b"", end=True)
        assert (await between.client.answer(stream_id)).trailers == {"grpc-status": "0"}


async def test_once_the_answer_has_begun_nothing_is_kept_any_more() -> None:
    async def script(peer: H2Peer) -> None:
        await request_on(peer, size=100)
        await peer.send_headers(1, OK_HEAD)
        await request_on(peer)
        await peer.send_headers(1, OK_END, end=True)
        await stay(peer)

    async with hop(script) as between:
        stream_id = await between.ask(bytes(100))
        answer = between.client.of(stream_id)
        await between.client.read_until(lambda: bool(answer.headers))
        assert not between.requests[0].repeatable
        await between.client.send_data(stream_id, bytes(100))
        await between.client.send_data(stream_id, b"", end=True)
        await between.client.answer(stream_id)


async def test_a_call_whose_client_still_speaks_is_not_late(autojump_clock: MockClock) -> None:
    """Neither its first byte nor the next one: it may be the client that is waited for. From its end on, both are."""

    async def script(peer: H2Peer) -> None:
        await request_on(peer, size=30)
        await peer.send_headers(1, OK_HEAD)
        await stay(peer)

    async with hop(script) as between:
        between.limits.head_timeout_s, between.limits.stall_timeout_s = 1.0, 0.5
        client = between.client
        stream_id = await between.ask()
        answer = client.of(stream_id)

        async def listen(seconds: float) -> None:
            with trio.move_on_after(seconds):
                await client.read_until(lambda: answer.ended)
            assert not answer.ended, answer

        for _ in range(12):
            await listen(0.9)
            await client.send_data(stream_id, bytes(5))
        await listen(0.9)
        assert answer.headers
        await client.send_data(stream_id, bytes(5), end=True)
        await listen(0.45)
        with trio.fail_after(1.0):
            await client.answer(stream_id)
        assert answer.trailers["grpc-status"] == "14"
        assert "no byte for 0.5 s" in answer.trailers["grpc-message"]
        assert between.host.ended == [("gpu-0", "broken")]


@pytest.mark.parametrize("answering", [False, True])
async def test_a_call_in_which_neither_side_says_a_word_ends_and_is_held_against_nobody(
    autojump_clock: MockClock, *, answering: bool
) -> None:
    """It holds a slot; whoever wants to keep many of them busy for nothing must at least speak."""

    async def script(peer: H2Peer) -> None:
        await request_on(peer, size=5)
        if answering:
            await peer.send_headers(1, OK_HEAD)
        await stay(peer)

    async with hop(script) as between:
        between.limits.head_timeout_s, between.limits.stall_timeout_s = 2.0, 0.5
        stream_id = await between.ask(bytes(5))
        began = trio.current_time()
        answer = await between.client.answer(stream_id)
        assert 1.9 < trio.current_time() - began < 5.0
        said = {**answer.headers, **answer.trailers}
        assert said["grpc-status"] == ("14" if answering else "4")
        assert between.host.ended == [("gpu-0", "cancelled")]


async def test_an_upload_that_takes_long_leaves_all_the_time_for_its_answer(autojump_clock: MockClock) -> None:
    async def script(peer: H2Peer) -> None:
        await request_on(peer)
        await trio.sleep(0.9)
        await answer_ok(peer, 1)
        await stay(peer)

    async with hop(script) as between:
        between.limits.head_timeout_s = 1.0
        stream_id = await between.ask()
        for byte in message(bytes(5)):
            await trio.sleep(0.95)
            await between.client.send_data(stream_id, bytes([byte]))
        await between.client.send_data(stream_id, b"", end=True)
        answer = await between.client.answer(stream_id)
        assert answer.trailers == {"grpc-status": "0"}


async def test_a_deadline_of_the_clients_own_does_not_wait_for_it(autojump_clock: MockClock) -> None:
    async def script(peer: H2Peer) -> None:
        await stay(peer)

    async with hop(script) as between:
        between.limits.head_timeout_s = 1.0
        between.timeout_s = 3.0
        stream_id = await between.ask(bytes(5))
        answer = await between.client.answer(stream_id)
        assert answer.headers["grpc-status"] == "4"
        assert between.host.ended == [("gpu-0", "cancelled")]


async def test_the_time_that_is_left_is_told_to_each_attempt() -> None:
    told: list[str] = []

    async def script(peer: H2Peer) -> None:
        stream = await request_on(peer)
        told.append(stream.headers["grpc-timeout"])
        await answer_ok(peer, 1)
        await stay(peer)

    async with hop(script) as between:
        between.timeout_s = 5.0
        await between.call(message(b"x"), [("grpc-timeout", "1H")])
    [value] = told
    assert value.endswith("u")
    assert 4_000_000 < int(value[:-1]) < 5_000_000


@pytest.mark.parametrize(("sent", "seen"), [((), ["-", "1"]), ((("grpc-previous-rpc-attempts", "2"),), ["2", "3"])])
async def test_a_repeated_call_says_how_often_it_was_tried(sent: tuple[tuple[str, str], ...], seen: list[str]) -> None:
    told: list[str] = []

    def noting(then: Callable[[H2Peer], Awaitable[None]]) -> Callable[[H2Peer], Awaitable[None]]:
        async def script(peer: H2Peer) -> None:
            stream = await request_on(peer)
            told.append(stream.headers.get("grpc-previous-rpc-attempts", "-"))
            await then(peer)

        return script

    async with hop(noting(unavailable), noting(answering())) as between:
        answer = await between.call(message(b"x"), sent)
        assert answer.trailers == {"grpc-status": "0"}
    assert told == seen


async def test_trailers_of_a_request_are_its_end() -> None:
    async with hop(answering()) as between:
        stream_id = await between.ask(message(b"x"))
        await between.client.send_headers(stream_id, [("x-late", "1")], end=True)
        answer = await between.client.answer(stream_id)
        assert answer.trailers == {"grpc-status": "0"}


POINTS = ["at the head", "in the request", "after the request", "in the answer", "while it is being opened"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("way", ["reset", "connection"])
async def test_a_client_that_leaves_at_any_point_leaves_nothing(point: str, way: str) -> None:
    gone = trio.Event()
    begun = trio.Event()

    async def script(peer: H2Peer) -> None:
        if point == "in the request":
            await request_on(peer, size=3)
        elif point != "at the head":
            await request_on(peer)
        if point == "in the answer":
            await peer.send_headers(1, OK_HEAD)
            await peer.send_data(1, message(bytes(100_000)))
        begun.set()
        await peer.read_until(lambda: peer.of(1).reset is not None)
        gone.set()
        await stay(peer)

    async with hop(script) as between:
        client = between.client
        if point == "while it is being opened":
            stream_id = await between.ask(message(b"x"), end=True)
        else:
            body = b"" if point == "at the head" else bytes(3) if point == "in the request" else message(b"x")
            stream_id = await between.ask(body, end=point in ("after the request", "in the answer"))
            if point == "at the head":
                await wait_until(lambda: between.pools[0].open_len and not between.pools[0]._openings, "it is open")
            else:
                await begun.wait()
        if way == "reset":
            await client.reset(stream_id)
        else:
            await trio.aclose_forcefully(client.stream)
        await wait_until(lambda: between.ends == 1, "the call has ended")
        if point not in ("while it is being opened", "at the head"):
            await gone.wait()
        assert between.host.ended == [("gpu-0", "cancelled")]
        await wait_until(lambda: all(pool.idle_len == len(pool._all) for pool in between.pools), "no stream is open")


async def test_a_call_that_has_ended_is_freed_without_the_collector() -> None:
    async with hop(answering()) as between:
        await between.call(message(b"warm"))
        between.requests.clear()
        between.ends = 0
        between.served.streams.clear()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                assert (await between.call(message(b"x"))).ended
            between.requests.clear()
            between.ends = 0
            between.served.streams.clear()
            left = [found for found in gc.get_objects() if isinstance(found, GrpcRequest)]
        finally:
            gc.enable()
        assert left == []
