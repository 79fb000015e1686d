"""Sections 12 and 13: permessage-deflate (RFC 7692), contents and sizes, and every agreement on its parameters."""

from __future__ import annotations

import random
import zlib

import pytest

from infermesh.net.websocket import WebSocketConfig
from infermesh.testing.websocket_client import RawWebSocket
from infermesh.testing.websocket_frames import BINARY, CONTINUATION, PING, PONG, TEXT, Frame, client_frame
from tests.conformance.websocket.conversation import Case, converse
from tests.conformance.websocket.deflating import Agreement, deflating
from wire.websocket import DeflateConfig

SMALLER = [16, 64, 256, 1024, 4096, 8192, 16_384, 32_768]
SIZES = [*SMALLER, 65_536, 131_072]
FORGET = DeflateConfig(message_bytes_min=0)
KEEP = DeflateConfig(keep_our_window=True, keep_their_window=True, message_bytes_min=0)
LONG = (b'{"id":%d,"text":"' % 7 + b"the quick brown fox jumps over the lazy dog " * 4_000 + b'"}')[:131_072]
NOISE = random.Random(12).randbytes(131_072)
OFFERS = {
    "13.1 nothing said": b"",
    "13.2 server forgets": b"; server_no_context_takeover",
    "13.3 server window 9": b"; server_max_window_bits=9",
    "13.4 server window 15": b"; server_max_window_bits=15",
    "13.5 both server's, 9": b"; server_no_context_takeover; server_max_window_bits=9",
    "13.6 both server's, 15": b"; server_no_context_takeover; server_max_window_bits=15",
    "client forgets": b"; client_no_context_takeover",
    "client window": b"; client_max_window_bits",
    "client window 9": b"; client_max_window_bits=9",
}
CONTENTS = {"12.1 text": (TEXT, LONG), "12.3 noise": (BINARY, NOISE), "12.5 zeros": (BINARY, bytes(131_072))}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("size", [*SMALLER, *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[-2:])])
async def test_compressed_messages_of_every_size_come_back(content: str, size: int) -> None:
    opcode, data = CONTENTS[content]
    async with deflating(KEEP) as (client, agreement):
        for at in range(20):
            message = data[at : at + size]
            await _exchange(client, agreement, opcode, message)


@pytest.mark.parametrize("config", [FORGET, KEEP], ids=["forgetting", "keeping"])
@pytest.mark.parametrize("offer", OFFERS)
async def test_every_agreement_is_kept_by_both_sides(offer: str, config: DeflateConfig) -> None:
    async with deflating(config, OFFERS[offer]) as (client, agreement):
        for size in SIZES:
            await _exchange(client, agreement, TEXT, LONG[:size])
            await _exchange(client, agreement, TEXT, LONG[:size])


async def test_the_first_of_several_offers_that_can_be_kept_is_taken() -> None:
    # 13.7: zlib has no window of 8, so the first is declined.
    more = b"; server_max_window_bits=8, permessage-deflate; server_max_window_bits=10, permessage-deflate"
    async with deflating(KEEP, more) as (client, agreement):
        assert agreement.server_bits == 10
        await _exchange(client, agreement, TEXT, LONG)


async def test_a_message_may_be_deflated_and_cut_into_frames_with_a_ping_between() -> None:
    async with deflating(KEEP) as (client, agreement):
        for _ in range(2):
            packed = agreement.deflate(LONG)
            middle = len(packed) // 2
            await client.say(TEXT, packed[:middle], fin=False, rsv=4)
            await client.say(PING, b"between")
            await client.say(CONTINUATION, packed[middle:])
            assert await client.read() == Frame(PONG, b"between")
            assert await _read(client, agreement) == LONG


async def test_messages_may_be_sent_as_they_are_in_between() -> None:
    async with deflating(KEEP) as (client, agreement):
        for _ in range(3):
            await client.say(TEXT, b"as it is")
            assert await _read(client, agreement) == b"as it is"
            await _exchange(client, agreement, TEXT, LONG[:500])


LINE = b"sec-websocket-extensions: permessage-deflate"
BAD = {
    "a bomb": (client_frame(BINARY, zlib.compress(bytes(8 << 20), wbits=-15), rsv=4), 1009),
    "no deflate": (client_frame(TEXT, b"\xff\xff\xff", rsv=4), 1007),
    "inflates to no text": (client_frame(TEXT, bytes.fromhex("fbff00"), rsv=4), 1007),
    "a compressed ping": (client_frame(PING, b"\x00", rsv=4), 1002),
    "a compressed continuation": (client_frame(TEXT, fin=False) + client_frame(CONTINUATION, b"\x00", rsv=4), 1002),
    "another reserved bit": (client_frame(TEXT, b"\x00", rsv=5), 1002),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_breaks_the_agreement_has_its_code(name: str) -> None:
    sends, code = BAD[name]
    config = WebSocketConfig(message_bytes_max=1 << 20, deflate=FORGET)
    await converse(Case(name, [sends], close=code), config, LINE)


async def _exchange(client: RawWebSocket, agreement: Agreement, opcode: int, message: bytes) -> None:
    await client.say(opcode, agreement.deflate(message), rsv=4)
    assert await _read(client, agreement) == message


async def _read(client: RawWebSocket, agreement: Agreement) -> bytes:
    frame = await client.read()
    assert frame is not None
    return agreement.inflate(frame)
