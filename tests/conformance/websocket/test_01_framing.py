"""Section 1: text and binary messages of every form of length."""

from __future__ import annotations

import pytest

from infermesh.testing.websocket_frames import BINARY, TEXT, Frame, client_frame
from tests.conformance.websocket.conversation import Case, converse, names

SIZES = [0, 125, 126, 127, 128, 65535, 65536]


def echoed(opcode: int, size: int, *, chop: int = 0) -> Case:
    payload = b"*" * size if opcode == TEXT else b"\xfe" * size
    name = f"{'text' if opcode == TEXT else 'binary'} of {size}{f' in writes of {chop}' if chop else ''}"
    return Case(name, [client_frame(opcode, payload)], [Frame(opcode, payload)], chop=chop)


CASES = [echoed(opcode, size) for opcode in (TEXT, BINARY) for size in SIZES]
CASES += [echoed(opcode, 65536, chop=997) for opcode in (TEXT, BINARY)]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
async def test_messages_of_every_length_come_back(case: Case) -> None:
    await converse(case)
