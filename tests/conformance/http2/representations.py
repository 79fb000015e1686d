"""HPACK representations written by hand (RFC 7541 sections 5 and 6), so that a test says which one it sends.

Strings are not Huffman coded here. Nothing is checked, and no table is kept.
"""

from __future__ import annotations


def integer(value: int, prefix_bits: int, pattern: int = 0) -> bytes:
    """RFC 7541 section 5.1."""
    top = (1 << prefix_bits) - 1
    if value < top:
        return bytes([pattern | value])
    out, value = bytearray([pattern | top]), value - top
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def text(value: bytes) -> bytes:
    return integer(len(value), 7) + value


def indexed(index: int) -> bytes:
    return integer(index, 7, 0x80)


def kept(name: int | bytes, value: bytes) -> bytes:
    """A literal that goes into the table."""
    return _literal(name, value, 6, 0x40)


def not_kept(name: int | bytes, value: bytes) -> bytes:
    return _literal(name, value, 4, 0x00)


def never_kept(name: int | bytes, value: bytes) -> bytes:
    return _literal(name, value, 4, 0x10)


def _literal(name: int | bytes, value: bytes, prefix_bits: int, pattern: int) -> bytes:
    if isinstance(name, int):
        return integer(name, prefix_bits, pattern) + text(value)
    return bytes([pattern]) + text(name) + text(value)


def table_size(size: int) -> bytes:
    return integer(size, 5, 0x20)
