"""Sections 9 and 10: large messages, in one frame, in many, in small writes; many messages; what is over a limit."""

from __future__ import annotations

import pytest

from infermesh.net.websocket import WebSocketConfig
from infermesh.testing.websocket_frames import BINARY, CONTINUATION, TEXT, Frame, client_frame
from tests.conformance.websocket.conversation import Case, converse

MIB = 1 << 20
SIZES = [65_536, 262_144, MIB, *(pytest.param(number * MIB, marks=pytest.mark.slow) for number in (4, 8, 16))]
CHOPS = [*(pytest.param(chop, marks=pytest.mark.slow) for chop in (64, 128)), 256, 512, 1024, 2048]


def payload_of(opcode: int, size: int) -> bytes:
    return b"*" * size if opcode == TEXT else b"\xfe" * size


def in_frames(opcode: int, payload: bytes, size: int) -> bytes:
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    last = len(pieces) - 1
    return b"".join(
        client_frame(CONTINUATION if number else opcode, piece, fin=number == last)
        for number, piece in enumerate(pieces)
    )


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", SIZES)
async def test_large_messages_come_back(opcode: int, size: int) -> None:
    payload = payload_of(opcode, size)
    await converse(Case("9.1, 9.2", [client_frame(opcode, payload)], [Frame(opcode, payload)]))


@pytest.mark.slow
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [64, 256, 1024, 4096, 16_384, 65_536, 262_144, MIB])
async def test_a_message_in_many_frames_comes_back(opcode: int, size: int) -> None:
    # A quarter of the suite's four mebibytes: what differs is the number of frames.
    payload = payload_of(opcode, MIB)
    await converse(Case("9.3, 9.4", [in_frames(opcode, payload, size)], [Frame(opcode, payload)]))


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("chop", CHOPS)
async def test_a_message_in_small_writes_comes_back(opcode: int, chop: int) -> None:
    payload = payload_of(opcode, 65_536)
    await converse(Case("9.5, 9.6", [client_frame(opcode, payload)], [Frame(opcode, payload)], chop=chop))


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024, 4096, 16_384])
async def test_many_messages_come_back_in_order(opcode: int, size: int) -> None:
    payloads = [payload_of(opcode, size)] * 200
    sends = [client_frame(opcode, payload) for payload in payloads]
    await converse(Case("9.7, 9.8", sends, [Frame(opcode, payload) for payload in payloads]))


async def test_a_message_that_its_client_fragments_by_itself_comes_back() -> None:
    payload = payload_of(TEXT, 65_536)
    await converse(Case("10.1.1", [in_frames(TEXT, payload, 1300)], [Frame(TEXT, payload)]))


@pytest.mark.parametrize("declared", [1001, 16 << 30, (1 << 63) - 1])
async def test_a_frame_that_declares_too_much_is_refused_at_its_header(declared: int) -> None:
    config = WebSocketConfig(message_bytes_max=1000)
    server = await converse(Case("over", [client_frame(BINARY, declared=declared)[:10]], close=1009), config)
    assert server.faults == ["body_oversized"]


async def test_a_message_of_pieces_that_grows_too_large_is_refused() -> None:
    config = WebSocketConfig(message_bytes_max=1000)
    await converse(Case("over", [in_frames(BINARY, bytes(1001), 100)], close=1009), config)
