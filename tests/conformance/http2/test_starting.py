"""RFC 9113 section 3.4: the connection preface."""

from __future__ import annotations

import pytest

from tests.conformance.http2.frames import PREFACE, Code, Kind, Setting, ping, settings, settings_ack
from tests.conformance.http2.port import Port
from tests.conformance.http2.raw_peer import RawPeer, read_settings

_NO_PREFACES = {
    "not HTTP at all": b"INVALID CONNECTION PREFACE\r\n\r\n",
    "another version": b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n" + settings(),
    "another word": b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings(),
    "the first half only": PREFACE[:16] + b"\r\n" * 8 + settings(),
    "bare line feeds": PREFACE.replace(b"\r\n", b"\n") + settings(),
}


async def test_the_server_begins_with_a_settings_frame(stranger: RawPeer) -> None:
    await stranger.send(PREFACE, settings())
    first = await stranger.next_frame()
    assert first is not None
    assert first.kind == Kind.SETTINGS
    assert not first.is_ack
    assert first.stream_id == 0


async def test_the_server_does_not_offer_to_be_pushed_to(peer: RawPeer) -> None:
    assert peer.server_settings.get(Setting.ENABLE_PUSH, 0) == 0


async def test_the_server_says_its_limits_in_its_first_settings(stranger: RawPeer) -> None:
    await stranger.send(PREFACE, settings())
    first = await stranger.next_frame()
    assert first is not None
    assert Setting.MAX_CONCURRENT_STREAMS in read_settings(first.payload)


@pytest.mark.parametrize("opening", _NO_PREFACES.values(), ids=_NO_PREFACES)
async def test_a_connection_that_begins_otherwise_is_closed(stranger: RawPeer, opening: bytes) -> None:
    await stranger.send(opening)
    await stranger.bytes_end()


async def test_a_preface_that_is_not_followed_by_settings_is_a_protocol_error(stranger: RawPeer) -> None:
    await stranger.send(PREFACE, ping(b"12345678"), settings())
    await stranger.connection_error(Code.PROTOCOL_ERROR)


async def test_a_preface_that_is_followed_by_an_acknowledgement_is_a_protocol_error(stranger: RawPeer) -> None:
    await stranger.send(PREFACE, settings_ack(), settings())
    await stranger.connection_error(Code.PROTOCOL_ERROR)


async def test_a_preface_and_a_request_in_single_octets_are_understood(stranger: RawPeer) -> None:
    for octet in PREFACE + settings() + stranger.get(1):
        await stranger.send(bytes([octet]))
    assert (await stranger.response(1)).status == stranger.status


async def test_a_client_need_not_wait_for_the_servers_preface(stranger: RawPeer) -> None:
    await stranger.send(PREFACE, settings(), stranger.get(1), stranger.get(3), ping(b"at once!"))
    assert (await stranger.response(1)).status == stranger.status


async def test_a_client_may_say_at_once_that_it_knows_no_priorities(stranger: RawPeer) -> None:
    """RFC 9218 section 2.1: only in the first settings."""
    await stranger.greet((Setting.NO_RFC7540_PRIORITIES, 1))
    await stranger.barrier()


async def test_a_second_preface_is_no_frame_and_ends_the_connection(peer: RawPeer) -> None:
    await peer.send(PREFACE)  # Read as a frame: 5,263,945 octets of type 32.
    await peer.connection_error(Code.FRAME_SIZE_ERROR)


async def test_many_connections_can_be_opened_one_after_the_other(port: Port) -> None:
    for _ in range(10):
        async with port.peer() as peer:
            await peer.greet()
            await peer.barrier()
