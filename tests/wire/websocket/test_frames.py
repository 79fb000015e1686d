from __future__ import annotations

import pytest

from wire.websocket.frames import BINARY, CLOSE, PING, TEXT, encode_frame


def test_the_examples_of_the_standard_are_written() -> None:
    # RFC 6455 section 5.7, and RFC 7692 section 7.2.3.1.
    assert encode_frame(TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert encode_frame(PING, b"Hello") == bytes.fromhex("890548656c6c6f")
    assert encode_frame(BINARY, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert encode_frame(BINARY, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")
    assert encode_frame(TEXT, bytes.fromhex("f248cdc9c90700"), compressed=True) == bytes.fromhex("c107f248cdc9c90700")


@pytest.mark.parametrize(
    ("length", "head"),
    [(0, "8200"), (125, "827d"), (126, "827e007e"), (65535, "827effff"), (65536, "827f0000000000010000")],
)
def test_the_shortest_length_is_used(length: int, head: str) -> None:
    assert encode_frame(BINARY, bytes(length)) == bytes.fromhex(head) + bytes(length)


def test_a_control_frame_that_is_too_long_is_a_mistake_of_ours() -> None:
    assert len(encode_frame(CLOSE, bytes(125))) == 127
    with pytest.raises(AssertionError, match="control frame"):
        encode_frame(CLOSE, bytes(126))
