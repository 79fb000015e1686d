"""`grpc-message`: any text survives the way there and back, and no bytes make the reader fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.grpc.message import decode_message_text, encode_message_text


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("plain text, with ~ and space", b"plain text, with ~ and space"),
        ("100 %", b"100 %25"),
        ("früh\n", b"fr%C3%BCh%0A"),
        ("☺", b"%E2%98%BA"),
        (" both ends ", b"%20both ends%20"),
        ("   ", b"%20%20%20"),
        ("", b""),
    ],
)
def test_everything_but_printable_ascii_is_percent_encoded(text: str, wire: bytes) -> None:
    assert encode_message_text(text) == wire
    assert decode_message_text(wire) == text


@given(st.text(max_size=300))
def test_text_comes_back_as_it_was(text: str) -> None:
    wire = encode_message_text(text)
    assert all(0x20 <= byte <= 0x7E for byte in wire)
    assert decode_message_text(wire) == text.encode("utf-8", "replace").decode()


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail(value: bytes) -> None:
    decode_message_text(value)


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        (b"50%", "50%"),
        (b"%zz", "%zz"),
        (b"%4", "%4"),
        (b"%%41", "%A"),
        (b"%FF", "\ufffd"),
        (b"%c3%bc", "ü"),
        (b"\xc3\xbc", "ü"),
    ],
)
def test_a_garbled_escape_stays_as_it_is(wire: bytes, text: str) -> None:
    assert decode_message_text(wire) == text


def test_a_long_message_is_cut_between_two_characters() -> None:
    assert decode_message_text(encode_message_text("x" * 2_048)) == "x" * 2_048
    assert decode_message_text(encode_message_text("x" * 2_049)) == "x" * 2_048
    assert decode_message_text(encode_message_text("ü" * 1_025)) == "ü" * 1_024
    assert decode_message_text(encode_message_text("x" + "ü" * 1_024)) == "x" + "ü" * 1_023
