"""The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B): octets to a string of bits and back, strictly.

Decoding walks one table lookup per encoded octet: a row is a state (what is left of a code at an octet's edge), and
gives for each octet the next row and the symbols that ended in it. A row is built when it is first needed; there are
256 of them and one dead end, so that the table is bounded by the code and not by what peers send.

Not here: caching of results and bounds on lengths (wire/http2/hpack.py). A result is at most 1.6 times as long as
its input, because the shortest code has five bits.
"""

from __future__ import annotations

from typing import Final, TypeAlias

# The code is canonical: within one length codes count up by symbol, and the next length goes on from there. So the
# symbols by length of code say everything that appendix B says.
_SYMBOLS_BY_BITS: Final[dict[int, bytes]] = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\\xc3\xd0",
    20: b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2",
    21: b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
    22: b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9",
    23: b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5"
    b"\xe7\xef",
    24: b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed",
    25: b"\xc7\xcf\xea\xeb",
    26: b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
    27: b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
    28: b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f"
    b"\xdc\xf9",
    30: b"\n\r\x16",  # And the end-of-string symbol: thirty ones, the last code of all.
}
_END_OF_STRING: Final = "1" * 30
_PADDING_BITS_MAX: Final = 7


def _codes() -> dict[int, str]:
    codes = {}
    code = bits = 0
    for length, symbols in _SYMBOLS_BY_BITS.items():
        code <<= length - bits
        bits = length
        for symbol in symbols:
            codes[symbol] = format(code, f"0{length}b")
            code += 1
    assert format(code, "b") == _END_OF_STRING
    return codes


CODES: Final[dict[int, str]] = _codes()
"""Each octet's code, as text of zeros and ones."""


class NotHuffman(ValueError):
    """The octets are not the code of any string: the end-of-string symbol, or padding that is none."""


# A row: for each octet the next row and the symbols that ended. A row that nobody needed yet is empty.
_Row: TypeAlias = "list[tuple[_Row, bytes]]"

_SYMBOL_OF: Final = {code: bytes([symbol]) for symbol, code in CODES.items()}
_rows: Final[dict[str, _Row]] = {}  # By the bits left over, which are a proper prefix of a code.
_left_over: Final[dict[int, str]] = {}  # The same, by identity of the row.


def _row(left_over: str) -> _Row:
    row = _rows.get(left_over)
    if row is None:
        row = _rows[left_over] = []
        _left_over[id(row)] = left_over
    return row


# What follows the end-of-string symbol: nothing that makes a string again.
_DEAD: Final[_Row] = []
_DEAD.extend([(_DEAD, b"")] * 256)
_START: Final = _row("")
# Where a string may end: padding is a prefix of the end-of-string symbol, and shorter than an octet (section 5.2).
_ENDS: Final = frozenset(id(_row("1" * bits)) for bits in range(_PADDING_BITS_MAX + 1))


def _build(row: _Row) -> None:
    left_over = _left_over[id(row)]
    row.extend(_entry(left_over + format(octet, "08b")) for octet in range(256))


def _entry(bits: str) -> tuple[_Row, bytes]:
    symbols = b""
    begin = 0
    for end in range(1, len(bits) + 1):
        code = bits[begin:end]
        if code == _END_OF_STRING:
            return _DEAD, b""
        symbol = _SYMBOL_OF.get(code)
        if symbol is not None:
            symbols += symbol
            begin = end
    return _row(bits[begin:]), symbols


def decode(encoded: bytes) -> bytes:
    """The string that `encoded` stands for; NotHuffman when it stands for none."""
    row = _START
    parts: list[bytes] = []
    append = parts.append
    octets = iter(encoded)
    octet = 0
    while True:
        try:
            for octet in octets:
                row, symbols = row[octet]
                append(symbols)
            break
        except IndexError:
            _build(row)  # At most 256 times in the life of a process. The octet has been taken: go on after it.
            row, symbols = row[octet]
            append(symbols)
    if id(row) not in _ENDS:
        raise NotHuffman("the end-of-string symbol" if row is _DEAD else "padding that is not seven ones or fewer")
    return b"".join(parts)


def encode(plain: bytes) -> bytes:
    """The code of `plain`, padded with ones to whole octets."""
    if not plain:
        return b""
    bits = plain.decode("latin-1").translate(CODES)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")
