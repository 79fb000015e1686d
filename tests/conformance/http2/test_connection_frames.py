"""RFC 9113 sections 6.1 and 6.4 to 6.8, and 7: DATA, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, error codes."""

from __future__ import annotations

import pytest

from tests.conformance.http2.frames import (
    ACK,
    PADDED,
    WINDOW_MAX,
    Code,
    Kind,
    Setting,
    data,
    frame,
    goaway,
    ping,
    push_promise,
    rst_stream,
    settings,
)
from tests.conformance.http2.raw_peer import RawPeer

# --- 6.1 DATA ---


async def test_data_without_a_stream_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(data(0, b"x", end=True))
    await peer.connection_error(Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("excess", [0, 1, 200])
async def test_padding_as_long_as_the_payload_is_a_protocol_error(peer: RawPeer, excess: int) -> None:
    payload = b"test!"
    await peer.send(peer.post(1), frame(Kind.DATA, PADDED | 1, 1, bytes([len(payload) + 1 + excess]) + payload))
    await peer.connection_error(Code.PROTOCOL_ERROR)


@pytest.mark.parametrize("padding", [0, 1, 255])
async def test_data_may_be_padded(peer: RawPeer, padding: int) -> None:
    await peer.send(peer.post(1, (b"content-length", b"2")), data(1, b"{}", end=True, padding=padding))
    assert (await peer.response(1)).reset is None


async def test_data_may_be_all_padding(peer: RawPeer) -> None:
    await peer.send(peer.post(1, (b"content-length", b"2")), data(1, b"", padding=255), data(1, b"{}", end=True))
    assert (await peer.response(1)).reset is None


async def test_data_may_come_in_many_frames(peer: RawPeer) -> None:
    body = b'{"model": "none", "prompt": "many frames"}'
    await peer.send(peer.post(1, (b"content-length", b"%d" % len(body))))
    await peer.send(*(data(1, body[at : at + 1]) for at in range(len(body))), data(1, b"", end=True))
    assert (await peer.response(1)).reset is None


# --- 6.4 RST_STREAM ---


async def test_a_reset_of_no_stream_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(rst_stream(0))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_a_reset_of_an_idle_stream_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(rst_stream(1))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_after_a_reset_the_server_sends_no_more_of_that_stream(peer: RawPeer) -> None:
    await peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 1)), peer.get(1))
    await peer.until(lambda each: each.kind == Kind.DATA)
    await peer.send(rst_stream(1), settings((Setting.INITIAL_WINDOW_SIZE, 65_535)))
    assert not any(each.stream_id == 1 for each in await peer.barrier())


@pytest.mark.parametrize("code", [Code.NO_ERROR, Code.REFUSED_STREAM, 0xFF, 2**32 - 1])
async def test_a_reset_may_carry_any_code(peer: RawPeer, code: int) -> None:
    await peer.send(peer.post(1), rst_stream(1, code))
    await peer.barrier()


# --- 6.5 SETTINGS ---


async def test_an_acknowledgement_with_a_payload_is_a_frame_size_error(peer: RawPeer) -> None:
    await peer.send(frame(Kind.SETTINGS, ACK, 0, bytes(6)))
    await peer.connection_error(Code.FRAME_SIZE_ERROR)


@pytest.mark.parametrize("flags", [0, ACK])
async def test_settings_of_a_stream_are_a_protocol_error(peer: RawPeer, flags: int) -> None:
    await peer.send(peer.post(1), frame(Kind.SETTINGS, flags, 1))
    await peer.connection_error(Code.PROTOCOL_ERROR)


_BAD_SETTINGS = {
    "ENABLE_PUSH of 2": (Setting.ENABLE_PUSH, 2, Code.PROTOCOL_ERROR),
    "ENABLE_PUSH of 2^32-1": (Setting.ENABLE_PUSH, 2**32 - 1, Code.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE of 2^31": (Setting.INITIAL_WINDOW_SIZE, 2**31, Code.FLOW_CONTROL_ERROR),
    "INITIAL_WINDOW_SIZE of 2^32-1": (Setting.INITIAL_WINDOW_SIZE, 2**32 - 1, Code.FLOW_CONTROL_ERROR),
    "MAX_FRAME_SIZE of 0": (Setting.MAX_FRAME_SIZE, 0, Code.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE of 2^14-1": (Setting.MAX_FRAME_SIZE, 2**14 - 1, Code.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE of 2^24": (Setting.MAX_FRAME_SIZE, 2**24, Code.PROTOCOL_ERROR),
    "ENABLE_CONNECT_PROTOCOL of 2": (Setting.ENABLE_CONNECT_PROTOCOL, 2, Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize(("setting", "value", "code"), _BAD_SETTINGS.values(), ids=_BAD_SETTINGS)
async def test_a_setting_out_of_its_range_ends_the_connection(
    peer: RawPeer, setting: Setting, value: int, code: Code
) -> None:
    await peer.send(settings((setting, value)))
    await peer.connection_error(code)


async def test_a_bad_setting_after_a_good_one_ends_the_connection(peer: RawPeer) -> None:
    await peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 100), (Setting.MAX_FRAME_SIZE, 1)))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_a_bad_setting_that_a_later_one_would_replace_ends_the_connection(peer: RawPeer) -> None:
    """Values are processed in their order (section 6.5.3)."""
    await peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 2**31), (Setting.INITIAL_WINDOW_SIZE, 100)))
    await peer.connection_error(Code.FLOW_CONTROL_ERROR)


_GOOD_SETTINGS = {
    "none": (),
    "HEADER_TABLE_SIZE of 0": ((Setting.HEADER_TABLE_SIZE, 0),),
    "HEADER_TABLE_SIZE of 2^32-1": ((Setting.HEADER_TABLE_SIZE, 2**32 - 1),),
    "ENABLE_PUSH of 0": ((Setting.ENABLE_PUSH, 0),),
    "ENABLE_PUSH of 1": ((Setting.ENABLE_PUSH, 1),),
    "MAX_CONCURRENT_STREAMS of 0": ((Setting.MAX_CONCURRENT_STREAMS, 0),),
    "MAX_CONCURRENT_STREAMS of 2^32-1": ((Setting.MAX_CONCURRENT_STREAMS, 2**32 - 1),),
    "INITIAL_WINDOW_SIZE of 2^31-1": ((Setting.INITIAL_WINDOW_SIZE, WINDOW_MAX),),
    "MAX_FRAME_SIZE of 2^14": ((Setting.MAX_FRAME_SIZE, 2**14),),
    "MAX_FRAME_SIZE of 2^24-1": ((Setting.MAX_FRAME_SIZE, 2**24 - 1),),
    "MAX_HEADER_LIST_SIZE of 2^32-1": ((Setting.MAX_HEADER_LIST_SIZE, 2**32 - 1),),
    "an unknown one": ((0xFF, 1), (0xFFFF, 2**32 - 1), (0, 0)),
    "one twice": ((Setting.ENABLE_PUSH, 1), (Setting.ENABLE_PUSH, 0)),
}


@pytest.mark.parametrize("pairs", _GOOD_SETTINGS.values(), ids=_GOOD_SETTINGS)
async def test_settings_are_acknowledged_and_requests_are_answered_under_them(
    peer: RawPeer, pairs: tuple[tuple[int, int], ...]
) -> None:
    await peer.send(settings(*pairs))
    await peer.until(lambda each: each.kind == Kind.SETTINGS and each.is_ack)
    await peer.send(peer.get(1))
    assert (await peer.response(1)).status == peer.status


async def test_each_settings_frame_is_acknowledged_once(peer: RawPeer) -> None:
    await peer.send(*[settings((Setting.ENABLE_PUSH, 0))] * 5)
    acks = [each for each in await peer.barrier() if each.kind == Kind.SETTINGS]
    assert [each.is_ack for each in acks] == [True] * 5


async def test_an_acknowledgement_is_not_acknowledged(peer: RawPeer) -> None:
    assert not any(each.kind == Kind.SETTINGS for each in await peer.barrier())


async def test_settings_hold_from_their_acknowledgement_on_and_in_their_order(peer: RawPeer) -> None:
    await peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 100), (Setting.INITIAL_WINDOW_SIZE, 1)), peer.get(1))
    frames = await peer.until(lambda each: each.kind == Kind.DATA)
    assert len(frames[-1].payload) == 1
    kinds = [each.kind for each in frames if each.kind in (Kind.SETTINGS, Kind.DATA)]
    assert kinds == [Kind.SETTINGS, Kind.DATA]


async def test_frames_of_the_server_stay_within_the_clients_largest_size(peer: RawPeer) -> None:
    await peer.send(peer.get(1))
    await peer.response(1)
    assert all(len(each.payload) <= 16_384 for each in peer.seen)


async def test_a_table_of_no_size_is_respected_by_the_servers_encoder(peer: RawPeer) -> None:
    await peer.send(settings((Setting.HEADER_TABLE_SIZE, 0)), peer.get(1), peer.get(3))
    assert (await peer.response(1)).status == peer.status
    assert (await peer.response(3)).status == peer.status
    blocks = [each.payload for each in peer.seen if each.kind == Kind.HEADERS]
    assert blocks[0][0] == 0x20, "the first block does not begin with the table's new size"


# --- 6.6, 8.4 PUSH_PROMISE ---


async def test_a_client_may_not_push(peer: RawPeer) -> None:
    await peer.send(peer.post(1), push_promise(1, 2, peer.block(peer.fields())))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_a_client_may_not_push_on_an_idle_stream(peer: RawPeer) -> None:
    await peer.send(push_promise(1, 2, peer.block(peer.fields())))
    await peer.connection_error(Code.PROTOCOL_ERROR)


# --- 6.7 PING ---


async def test_a_ping_is_answered_with_its_own_payload(peer: RawPeer) -> None:
    await peer.send(ping(b"\x00\xffpayload"[:8]))
    (*_, answer) = await peer.until(lambda each: each.kind == Kind.PING)
    assert answer.is_ack
    assert answer.payload == b"\x00\xffpayload"[:8]
    assert answer.stream_id == 0


async def test_pings_are_answered_in_their_order(peer: RawPeer) -> None:
    payloads = [b"ping%04d" % number for number in range(5)]
    await peer.send(*map(ping, payloads))
    answers = [each.payload for each in await peer.barrier() if each.kind == Kind.PING]
    assert answers[:5] == payloads


async def test_an_answer_to_a_ping_is_not_answered(peer: RawPeer) -> None:
    await peer.send(ping(b"unasked!", ack=True))
    assert not any(each.payload == b"unasked!" for each in await peer.barrier())


@pytest.mark.parametrize("flags", [0, ACK])
async def test_a_ping_of_a_stream_is_a_protocol_error(peer: RawPeer, flags: int) -> None:
    await peer.send(peer.post(1), frame(Kind.PING, flags, 1, b"12345678"))
    await peer.connection_error(Code.PROTOCOL_ERROR)


# --- 6.8 GOAWAY ---


async def test_a_goaway_of_a_stream_is_a_protocol_error(peer: RawPeer) -> None:
    await peer.send(peer.post(1), frame(Kind.GOAWAY, 0, 1, bytes(8)))
    await peer.connection_error(Code.PROTOCOL_ERROR)


async def test_a_request_before_the_clients_goaway_is_still_answered(peer: RawPeer) -> None:
    await peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 0)), peer.get(1), goaway(debug=b"bye"))
    await peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 65_535)))
    while (each := await peer.next_frame()) is not None:
        if each.stream_id == 1 and each.ends_stream:
            return
    raise AssertionError(f"closed before the answer was whole: {peer.story()}")


async def test_a_ping_after_the_clients_goaway_is_answered_while_a_stream_is_open(peer: RawPeer) -> None:
    await peer.send(peer.post(1), goaway(), ping(b"12345678"))
    await peer.until(lambda each: each.kind == Kind.PING and each.payload == b"12345678")


# --- 7 error codes ---


@pytest.mark.parametrize("code", [0xFF, 2**32 - 1])
async def test_an_unknown_code_of_a_goaway_does_nothing_special(peer: RawPeer, code: int) -> None:
    await peer.send(peer.post(1), goaway(0, code), ping(b"12345678"))
    await peer.until(lambda each: each.kind == Kind.PING and each.payload == b"12345678")


async def test_an_unknown_code_of_a_reset_does_nothing_special(peer: RawPeer) -> None:
    await peer.send(peer.post(1), rst_stream(1, 0xFF), peer.get(3))
    assert (await peer.response(3)).status == peer.status
