"""Section 4: opcodes that are reserved, for data and for control."""

from __future__ import annotations

import pytest

from infermesh.testing.websocket_frames import PING, TEXT, Frame, client_frame
from tests.conformance.websocket.conversation import Case, converse, names

HELLO = b"Hello, world!"
RESERVED = [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF]

CASES = [Case(f"{opcode:#x}, empty", [client_frame(opcode)], close=1002) for opcode in RESERVED]
CASES += [Case(f"{opcode:#x}", [client_frame(opcode, HELLO)], close=1002) for opcode in RESERVED]
CASES += [
    Case(
        f"{opcode:#x} after text{', by the byte' if chop else ''}",
        [client_frame(TEXT, HELLO) + client_frame(opcode, HELLO) + client_frame(PING)],
        [Frame(TEXT, HELLO)],
        close=1002,
        chop=chop,
    )
    for opcode in RESERVED
    for chop in (0, 1)
]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
async def test_a_reserved_opcode_is_a_protocol_error(case: Case) -> None:
    await converse(case)
