"""RFC 9113 sections 5.2 and 6.9: windows of both directions."""

from __future__ import annotations

import pytest

from tests.conformance.http2.frames import (
    FRAME_BYTES,
    WINDOW,
    WINDOW_MAX,
    Code,
    Frame,
    Kind,
    Setting,
    data,
    frame,
    rst_stream,
    settings,
    window_update,
)
from tests.conformance.http2.raw_peer import RawPeer


def _window(size: int) -> bytes:
    return settings((Setting.INITIAL_WINDOW_SIZE, size))


def _sizes(frames: list[Frame], stream_id: int = 1) -> list[int]:
    return [len(each.payload) for each in frames if each.kind == Kind.DATA and each.stream_id == stream_id]


# --- 6.9 WINDOW_UPDATE ---


async def test_an_increment_of_nothing_to_the_connection_is_its_protocol_error(peer: RawPeer) -> None:
    await peer.send(window_update(0, 0))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_an_increment_of_nothing_to_a_stream_is_its_protocol_error(peer: RawPeer) -> None:
    await peer.send(peer.post(1), window_update(1, 0))
    await peer.any_error(1, Code.PROTOCOL_ERROR)


async def test_the_reserved_bit_of_an_increment_is_ignored(peer: RawPeer) -> None:
    await peer.send(_window(0), peer.get(1), frame(Kind.WINDOW_UPDATE, 0, 1, b"\x80\0\0\2"))
    frames = await peer.until(lambda each: each.kind == Kind.DATA)
    assert len(frames[-1].payload) == 2


async def test_a_reserved_bit_alone_is_an_increment_of_nothing(peer: RawPeer) -> None:
    await peer.send(frame(Kind.WINDOW_UPDATE, 0, 0, b"\x80\0\0\0"))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_an_increment_to_the_connection_is_taken(peer: RawPeer) -> None:
    await peer.send(window_update(0, 1), peer.get(1))
    assert (await peer.response(1)).status == peer.status


# --- 6.9.1 the window ---


async def test_the_server_sends_one_octet_into_a_window_of_one(peer: RawPeer) -> None:
    await peer.send(_window(1), peer.get(1))
    await peer.until(lambda each: each.kind == Kind.DATA)
    assert _sizes([*peer.seen, *await peer.barrier()]) == [1]


async def test_the_head_of_an_answer_needs_no_window(peer: RawPeer) -> None:
    await peer.send(_window(0), peer.get(1))
    await peer.until(lambda each: each.kind == Kind.HEADERS and each.stream_id == 1)
    assert _sizes(await peer.barrier()) == []


async def test_an_answer_arrives_whole_through_windows_of_one_octet(peer: RawPeer) -> None:
    await peer.send(peer.get(1))
    expected = len((await peer.response(1)).body)
    await peer.send(_window(0), peer.get(3))
    received = 0
    while received < min(expected, 40):
        await peer.send(window_update(3, 1))
        frames = await peer.until(lambda each: each.kind == Kind.DATA)
        assert len(frames[-1].payload) == 1
        received += 1


async def test_a_window_over_its_largest_size_is_an_error_of_the_connection(peer: RawPeer) -> None:
    await peer.send(window_update(0, WINDOW_MAX), window_update(0, WINDOW_MAX))
    await peer.connection_error(Code.FLOW_CONTROL_ERROR)


async def test_a_window_over_its_largest_size_by_one_is_an_error_of_the_connection(peer: RawPeer) -> None:
    await peer.send(window_update(0, WINDOW_MAX - WINDOW + 1))
    await peer.connection_error(Code.FLOW_CONTROL_ERROR)


async def test_a_window_of_its_largest_size_is_none(peer: RawPeer) -> None:
    await peer.send(window_update(0, WINDOW_MAX - WINDOW))
    await peer.barrier()


async def test_a_streams_window_over_its_largest_size_is_an_error_of_that_stream(peer: RawPeer) -> None:
    await peer.send(peer.post(1), window_update(1, WINDOW_MAX), window_update(1, WINDOW_MAX))
    await peer.stream_error(1, Code.FLOW_CONTROL_ERROR)


async def test_the_connections_window_holds_for_all_streams_together(peer: RawPeer) -> None:
    """Streams of ample windows take no more than 65,535 octets in all while the connection gives no more."""
    await peer.send(_window(WINDOW_MAX), peer.get(1))
    once = len((await peer.response(1)).body)
    asked = list(range(3, 2 * (WINDOW // once + 20), 2))
    frames: list[Frame] = []
    for at in range(0, len(asked), 50):
        await peer.send(*(peer.get(stream_id) for stream_id in asked[at : at + 50]))
        frames += await peer.barrier()
    frames += await peer.barrier()
    sent = sum(len(each.payload) for each in frames if each.kind == Kind.DATA)
    assert sent == WINDOW - once
    await peer.send(window_update(0, 5))
    frames = await peer.until(lambda each: each.kind == Kind.DATA)
    assert len(frames[-1].payload) == 5


# --- 6.9.2 the initial window ---


async def test_a_larger_initial_window_lets_a_waiting_answer_go_on(peer: RawPeer) -> None:
    await peer.send(_window(0), peer.get(1))
    await peer.until(lambda each: each.kind == Kind.HEADERS)
    await peer.send(_window(1))
    frames = await peer.until(lambda each: each.kind == Kind.DATA)
    assert len(frames[-1].payload) == 1
    await peer.send(_window(WINDOW))
    await peer.until(lambda each: each.stream_id == 1 and each.ends_stream)


async def test_a_window_may_become_negative_and_must_be_paid_back_first(peer: RawPeer) -> None:
    await peer.send(_window(3), peer.get(1))
    frames = await peer.until(lambda each: each.kind == Kind.DATA)
    assert len(frames[-1].payload) == 3
    await peer.send(_window(2), window_update(1, 1))
    assert _sizes(await peer.barrier()) == []  # -1, and then 0.
    await peer.send(window_update(1, 1))
    frames = await peer.until(lambda each: each.kind == Kind.DATA)
    assert len(frames[-1].payload) == 1


async def test_a_new_initial_window_does_not_touch_the_connections(peer: RawPeer) -> None:
    await peer.send(_window(0), window_update(0, WINDOW_MAX - WINDOW), _window(WINDOW))
    await peer.barrier()


async def test_an_initial_window_that_lifts_a_stream_over_the_largest_size_ends_the_connection(peer: RawPeer) -> None:
    await peer.send(_window(0), peer.post(1), window_update(1, WINDOW_MAX), _window(1))
    await peer.connection_error(Code.FLOW_CONTROL_ERROR)


async def test_a_window_update_before_the_settings_counts_on_top(peer: RawPeer) -> None:
    await peer.send(_window(0), peer.get(1), window_update(1, 2), _window(3))
    frames = await peer.until(lambda each: each.kind == Kind.DATA and sum(_sizes(peer.seen)) >= 5)
    assert sum(_sizes([*peer.seen, *await peer.barrier()])) == 5, frames


# --- the server's own windows ---


@pytest.mark.parametrize("padding", [None, 200])
async def test_the_server_gives_back_what_a_body_took_and_its_padding(peer: RawPeer, padding: int | None) -> None:
    """Three times its window, sent only as it allows: a server that forgets the padding would stop us."""
    stream = peer.server_settings.get(Setting.INITIAL_WINDOW_SIZE, WINDOW)
    payload = bytes(50 if padding else 8_000)
    size = len(payload) + (padding + 1 if padding else 0)
    goal = min(3 * stream, 300_000)
    await peer.send(peer.post(1))
    windows = {0: WINDOW, 1: stream}
    for grant in peer.seen:
        _granted(windows, grant)
    sent = 0
    while sent < goal:
        while min(windows.values()) < size:
            (*_, grant) = await peer.until(lambda each: each.kind == Kind.WINDOW_UPDATE)
            _granted(windows, grant)
        await peer.send(data(1, payload, padding=padding))
        windows = {key: left - size for key, left in windows.items()}
        sent += size


async def test_the_server_gives_back_what_reset_streams_took_of_the_connection(peer: RawPeer) -> None:
    """Twice the connection's window, in bodies that are all cut off before their end."""
    await peer.barrier()
    windows = {0: WINDOW}
    for grant in peer.seen:
        _granted(windows, grant)
    a_stream = min(peer.server_settings.get(Setting.INITIAL_WINDOW_SIZE, WINDOW), 2**20)
    goal, sent, stream_id = 2 * windows[0], 0, 1
    while sent < goal:
        await peer.send(peer.post(stream_id))
        for _ in range(a_stream // FRAME_BYTES):
            while windows[0] < FRAME_BYTES:
                (*_, grant) = await peer.until(lambda each: each.kind == Kind.WINDOW_UPDATE and not each.stream_id)
                _granted(windows, grant)
            await peer.send(data(stream_id, bytes(FRAME_BYTES)))
            windows[0] -= FRAME_BYTES
            sent += FRAME_BYTES
        await peer.send(rst_stream(stream_id))
        stream_id += 2


def _granted(windows: dict[int, int], grant: Frame) -> None:
    if grant.kind == Kind.WINDOW_UPDATE and grant.stream_id in windows:
        windows[grant.stream_id] += int.from_bytes(grant.payload, "big")
