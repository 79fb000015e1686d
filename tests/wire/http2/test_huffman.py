"""The code against appendix B as somebody else wrote it down, the RFC's own strings, and its three ways to be wrong."""

from __future__ import annotations

import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given
from hypothesis import strategies as st

from wire.http2 import huffman
from wire.http2.huffman import NotHuffman

# RFC 7541 appendix C.4 to C.6.
RFC_STRINGS = [
    ("f1e3c2e5f23a6ba0ab90f4ff", b"www.example.com"),
    ("a8eb10649cbf", b"no-cache"),
    ("25a849e95ba97d7f", b"custom-key"),
    ("25a849e95bb8e8b4bf", b"custom-value"),
    ("6402", b"302"),
    ("aec3771a4b", b"private"),
    ("d07abe941054d444a8200595040b8166e082a62d1bff", b"Mon, 21 Oct 2013 20:13:21 GMT"),
    ("9d29ad171863c78f0b97c8e9ae82ae43d3", b"https://www.example.com"),
    ("640eff", b"307"),
    ("d07abe941054d444a8200595040b8166e084a62d1bff", b"Mon, 21 Oct 2013 20:13:22 GMT"),
    ("9bd9ab", b"gzip"),
    (
        "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ),
]


def _of_bits(bits: str) -> bytes:
    assert len(bits) % 8 == 0
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


@pytest.mark.parametrize(("code", "plain"), RFC_STRINGS)
def test_strings_of_the_rfc_go_both_ways(code: str, plain: bytes) -> None:
    assert huffman.encode(plain) == bytes.fromhex(code)
    assert huffman.decode(bytes.fromhex(code)) == plain


def test_the_code_that_was_built_is_appendix_b() -> None:
    ours = {symbol: (int(bits, 2), len(bits)) for symbol, bits in huffman.CODES.items()}
    theirs = zip(REQUEST_CODES[:256], REQUEST_CODES_LENGTH[:256], strict=True)
    assert ours == dict(enumerate(theirs))


def test_an_empty_string_is_no_octets() -> None:
    assert huffman.encode(b"") == b""
    assert huffman.decode(b"") == b""


@pytest.mark.parametrize("symbol", range(256))
def test_each_octet_survives_alone_and_among_others(symbol: int) -> None:
    for plain in (bytes([symbol]), bytes([symbol, symbol]), b"ab" + bytes([symbol]) + b"0"):
        assert huffman.decode(huffman.encode(plain)) == plain


@given(st.binary(max_size=200))
def test_what_was_encoded_is_decoded_by_both(plain: bytes) -> None:
    code = huffman.encode(plain)
    assert huffman.decode(code) == plain
    assert decode_huffman(code) == plain


@given(st.binary(max_size=40))
def test_any_octets_are_the_code_of_one_string_or_of_none(code: bytes) -> None:
    try:
        plain = huffman.decode(code)
    except NotHuffman:
        return
    assert huffman.encode(plain) == code
    assert 5 * len(plain) <= 8 * len(code)


@pytest.mark.parametrize("bits", range(1, 8))
def test_seven_ones_or_fewer_are_padding(bits: int) -> None:
    codes = {len(code) % 8: code for code in huffman.CODES.values() if "0" in code[-8:]}
    lead = "00000" * 8  # Eight times "0" fill whole octets.
    missing = next(code for length, code in sorted(codes.items()) if (length + bits) % 8 == 0)
    assert huffman.decode(_of_bits(lead + missing + "1" * bits))[:8] == b"00000000"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(b"\xff", id="an octet of ones alone"),
        pytest.param(huffman.encode(b"1111") + b"\xff", id="an octet of ones at the end"),
        pytest.param(_of_bits("00000" + "111" + "11111111"), id="eleven ones after a symbol"),
        pytest.param(_of_bits("00000" + "110"), id="padding that ends in a zero"),
        pytest.param(_of_bits("00000" + "000"), id="padding of zeros"),
    ],
)
def test_padding_that_is_none_is_refused(code: bytes) -> None:
    with pytest.raises(NotHuffman, match="padding"):
        huffman.decode(code)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(_of_bits("1" * 32), id="alone, padded"),
        pytest.param(_of_bits("1" * 30 + "00"), id="alone, then zeros"),
        pytest.param(_of_bits("00000" + "1" * 30 + "00000"), id="between two symbols"),
        pytest.param(_of_bits("1" * 30 + "0000000000") + huffman.encode(b"www.example.com"), id="before a string"),
    ],
)
def test_the_end_of_string_symbol_is_refused(code: bytes) -> None:
    with pytest.raises(NotHuffman, match="end-of-string"):
        huffman.decode(code)
