"""RFC 9113 section 5: stream states, identifiers, concurrency, priority, error handling, extensions."""

from __future__ import annotations

import pytest

from tests.conformance.http2.frames import (
    STREAM_MAX,
    Code,
    Kind,
    Setting,
    continuation,
    data,
    frame,
    headers,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)
from tests.conformance.http2.raw_peer import RawPeer

_HELD = (Setting.INITIAL_WINDOW_SIZE, 0)
"""With no window for its answer a stream stays half closed (remote)."""


async def _hold(peer: RawPeer, stream_id: int) -> None:
    """A request that is whole, with its answer under way: half closed (remote)."""
    await peer.send(settings(_HELD), peer.get(stream_id))
    await peer.until(lambda each: each.kind == Kind.HEADERS and each.stream_id == stream_id)


async def _finish(peer: RawPeer, stream_id: int) -> None:
    """A request and its whole answer: closed."""
    await peer.send(peer.get(stream_id))
    assert (await peer.response(stream_id)).status == peer.status


# --- 5.1 idle ---

_NOT_FOR_IDLE = {
    "DATA": data(1, b"x", end=True),
    "RST_STREAM": rst_stream(1),
    "WINDOW_UPDATE": window_update(1, 100),
    "CONTINUATION": continuation(1, b""),
    "DATA on a higher stream": data(99, b"x"),
}


@pytest.mark.parametrize("first", _NOT_FOR_IDLE.values(), ids=_NOT_FOR_IDLE)
async def test_an_idle_stream_takes_headers_and_priority_only(peer: RawPeer, first: bytes) -> None:
    await peer.send(first)
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_an_idle_stream_takes_a_priority_frame(peer: RawPeer) -> None:
    await peer.send(priority(1, weight=256), peer.get(1))
    assert (await peer.response(1)).status == peer.status


async def test_an_idle_stream_of_the_server_takes_no_data(peer: RawPeer) -> None:
    await peer.send(data(2, b"x"))
    await peer.connection_error(Code.PROTOCOL_ERROR)


# --- 5.1 half closed (remote) ---


async def test_data_after_the_end_of_a_stream_is_an_error_of_that_stream(peer: RawPeer) -> None:
    await _hold(peer, 1)
    await peer.send(data(1, b"x", end=True))
    await peer.stream_error(1, Code.STREAM_CLOSED)


async def test_headers_after_the_end_of_a_stream_are_an_error_of_that_stream(peer: RawPeer) -> None:
    await _hold(peer, 1)
    await peer.send(peer.get(1))
    await peer.stream_error(1, Code.STREAM_CLOSED)


async def test_a_continuation_after_the_end_of_a_stream_is_an_error(peer: RawPeer) -> None:
    await _hold(peer, 1)
    await peer.send(continuation(1, b""))
    await peer.connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED)


async def test_a_window_update_after_the_end_of_a_stream_lets_its_answer_go_on(peer: RawPeer) -> None:
    await _hold(peer, 1)
    await peer.send(window_update(1, 1))
    (*_, first) = await peer.until(lambda each: each.kind == Kind.DATA)
    assert len(first.payload) == 1


async def test_a_priority_frame_after_the_end_of_a_stream_is_taken(peer: RawPeer) -> None:
    await _hold(peer, 1)
    await peer.send(priority(1, weight=100), window_update(1, 1))
    await peer.until(lambda each: each.kind == Kind.DATA)


async def test_a_reset_after_the_end_of_a_stream_is_taken(peer: RawPeer) -> None:
    await _hold(peer, 1)
    await peer.send(rst_stream(1), settings((Setting.INITIAL_WINDOW_SIZE, 65_535)))
    assert not any(each.stream_id == 1 for each in await peer.barrier())


# --- 5.1 closed, by a reset of the client ---


async def test_data_after_a_reset_is_an_error_of_the_stream_or_the_connection(peer: RawPeer) -> None:
    await peer.send(peer.post(1), rst_stream(1), data(1, b"x", end=True))
    await peer.any_error(1, Code.STREAM_CLOSED)


async def test_headers_after_a_reset_are_an_error_of_the_stream_or_the_connection(peer: RawPeer) -> None:
    await peer.send(peer.post(1), rst_stream(1), peer.get(1))
    await peer.any_error(1, Code.STREAM_CLOSED)


async def test_a_continuation_after_a_reset_is_an_error(peer: RawPeer) -> None:
    await peer.send(peer.post(1), rst_stream(1), continuation(1, b""))
    await peer.any_error(1, Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


async def test_a_priority_frame_after_a_reset_is_taken(peer: RawPeer) -> None:
    await peer.send(peer.post(1), rst_stream(1), priority(1))
    await peer.barrier()


async def test_a_reset_is_not_answered_by_a_reset(peer: RawPeer) -> None:
    await peer.send(peer.post(1), rst_stream(1))
    assert not any(each.kind == Kind.RST_STREAM for each in await peer.barrier())


# --- 5.1 closed, by both ends ---


async def test_data_on_a_closed_stream_is_an_error(peer: RawPeer) -> None:
    await _finish(peer, 1)
    await peer.send(data(1, b"x", end=True))
    await peer.any_error(1, Code.STREAM_CLOSED)


async def test_headers_on_a_closed_stream_are_an_error_of_the_connection(peer: RawPeer) -> None:
    await _finish(peer, 1)
    await peer.send(peer.get(1))
    await peer.connection_error(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


async def test_a_continuation_on_a_closed_stream_is_an_error_of_the_connection(peer: RawPeer) -> None:
    await _finish(peer, 1)
    await peer.send(continuation(1, b""))
    await peer.connection_error(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


_LATE = {"PRIORITY": priority(1), "WINDOW_UPDATE": window_update(1, 1), "RST_STREAM": rst_stream(1)}


@pytest.mark.parametrize("late", _LATE.values(), ids=_LATE)
async def test_what_may_cross_the_end_of_a_stream_on_the_wire_is_taken(peer: RawPeer, late: bytes) -> None:
    await _finish(peer, 1)
    await peer.send(late)
    await peer.barrier()


# --- 5.1.1 identifiers ---


async def test_a_client_may_not_open_a_stream_of_an_even_number(peer: RawPeer) -> None:
    await peer.send(peer.get(2))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_stream_identifiers_only_grow(peer: RawPeer) -> None:
    await peer.send(peer.get(5))
    assert (await peer.response(5)).status == peer.status
    await peer.send(peer.get(3))
    await peer.connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED)


async def test_a_stream_that_was_passed_over_takes_no_data(peer: RawPeer) -> None:
    await peer.send(peer.get(5), data(3, b"x"))
    await peer.any_error(3, Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)


async def test_stream_identifiers_may_leave_gaps(peer: RawPeer) -> None:
    for stream_id in (1, 7, 1001, 2**30 + 1):
        await _finish(peer, stream_id)


async def test_the_last_stream_identifier_is_one_like_any_other(peer: RawPeer) -> None:
    await _finish(peer, STREAM_MAX)
    await peer.barrier()


async def test_after_the_last_stream_identifier_there_is_no_further_stream(peer: RawPeer) -> None:
    await _finish(peer, STREAM_MAX)
    await peer.send(peer.get(STREAM_MAX - 2))
    await peer.connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED)


async def test_a_priority_frame_does_not_use_a_stream_identifier(peer: RawPeer) -> None:
    await peer.send(priority(9), peer.get(3))
    assert (await peer.response(3)).status == peer.status


# --- 5.1.2 concurrency ---


async def test_a_stream_over_the_limit_is_refused_and_the_others_go_on(peer: RawPeer) -> None:
    limit = peer.server_settings[Setting.MAX_CONCURRENT_STREAMS]
    over = 2 * limit + 1
    await peer.send(settings(_HELD), *(peer.get(number) for number in range(1, over, 2)))
    await peer.send(peer.get(over, (b"x-kept", b"in the table of both ends")))
    await peer.stream_error(over, Code.REFUSED_STREAM, Code.PROTOCOL_ERROR)
    await peer.send(window_update(1, 1))
    await peer.until(lambda each: each.kind == Kind.DATA and each.stream_id == 1)
    # One fewer is under way, and the table is as the refused request left it.
    await peer.send(rst_stream(3), peer.get(over + 2, (b"x-kept", b"in the table of both ends")))
    await peer.until(lambda each: each.kind == Kind.HEADERS and each.stream_id == over + 2)


async def test_streams_answered_one_after_the_other_are_not_limited(peer: RawPeer) -> None:
    limit = peer.server_settings[Setting.MAX_CONCURRENT_STREAMS]
    for number in range(1, 2 * (limit + 20), 2):
        await _finish(peer, number)


# --- 5.3, 6.3 priority: deprecated, and still to be parsed ---


async def test_a_priority_frame_of_no_stream_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(priority(0))
    await peer.connection_error(Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("weight", [1, 16, 256])
@pytest.mark.parametrize("exclusive", [False, True])
async def test_a_priority_frame_of_any_weight_is_taken(peer: RawPeer, weight: int, exclusive: bool) -> None:
    await peer.send(
        peer.post(1), priority(1, 3, exclusive=exclusive, weight=weight), priority(5, 1), data(1, b"{}", end=True)
    )
    assert (await peer.response(1)).reset is None


async def test_a_stream_that_depends_on_itself_is_a_protocol_error_of_that_stream(peer: RawPeer) -> None:
    await peer.send(peer.post(1), priority(1, 1))
    await peer.any_error(1, Code.PROTOCOL_ERROR)


async def test_headers_that_depend_on_themselves_are_a_protocol_error_of_that_stream(peer: RawPeer) -> None:
    fields = (1).to_bytes(4, "big") + b"\x10"
    await peer.send(frame(Kind.HEADERS, 0x25, 1, fields + peer.block(peer.fields())))
    await peer.any_error(1, Code.PROTOCOL_ERROR)


async def test_an_update_of_the_newer_priority_scheme_is_taken(peer: RawPeer) -> None:
    """RFC 9218 section 7.1: PRIORITY_UPDATE, of stream 1."""
    await peer.send(frame(0x10, 0, 0, b"\0\0\0\1u=3, i"), peer.get(1))
    assert (await peer.response(1)).status == peer.status


# --- 5.4 errors ---


async def test_after_a_connection_error_the_connection_is_closed(peer: RawPeer) -> None:
    await peer.send(frame(Kind.PING, 0, 3, b"12345678"))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_a_connection_error_names_the_last_stream_that_was_seen(peer: RawPeer) -> None:
    await _finish(peer, 1)
    await _finish(peer, 7)
    await peer.send(frame(Kind.PING, 0, 3, b"12345678"))
    assert (await peer.connection_error(Code.PROTOCOL_ERROR)).last_stream_id == 7


async def test_an_error_of_one_stream_leaves_the_others_alone(peer: RawPeer) -> None:
    await peer.send(settings(_HELD), peer.get(1), peer.post(3), window_update(3, 0))
    await peer.stream_error(3, Code.PROTOCOL_ERROR)
    await peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 65_535)))
    await peer.until(lambda each: each.stream_id == 1 and each.ends_stream)


# --- 5.5 extensions ---


async def test_an_unknown_frame_inside_a_field_block_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(headers(1, peer.block(peer.fields()), end=True, whole=False), frame(0x16, 0, 0, bytes(8)))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_an_unknown_frame_between_others_changes_nothing(peer: RawPeer) -> None:
    await peer.send(frame(0xF0, 0, 0, bytes(8)), peer.get(1), frame(0xF0, 0, 1, bytes(8)), ping(b"12345678"))
    assert (await peer.response(1)).status == peer.status
