"""The plain mutations: bytes flipped, cut, doubled, swapped, joined with another input, keywords and numbers written.

A function of its generator alone. Targets with a structure of their own add `Target.mutate`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from fuzz.target import Target

_EDGE_BYTES = b"\x00\x01\x09\x0a\x0d\x20\x22\x2c\x2d\x30\x3a\x3b\x3d\x7f\x80\xfe\xff"
_EDGE_NUMBERS = tuple(
    (1 << bits) + offset for bits in (7, 8, 14, 15, 16, 24, 31, 32, 53, 63, 64) for offset in (-1, 0, 1)
)
_STEPS_MAX = 5


def mutated(target: Target, data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """A variant of `data`, at most `target.input_bytes_max` long."""
    for _ in range(rng.randint(1, _STEPS_MAX)):
        if target.mutate is not None and rng.random() < 0.5:
            data = target.mutate(data, rng)
        elif target.words and rng.random() < 0.2:
            data = _put(data, rng.choice(target.words), rng)
        elif others and rng.random() < 0.15:
            data = _spliced(data, rng.choice(others), rng)
        else:
            data = rng.choice(_MUTATIONS)(data, rng)
    return data[: target.input_bytes_max]


def _flip_bit(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return b"\x00"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _set_byte(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    value = rng.choice(_EDGE_BYTES) if rng.random() < 0.7 else rng.randrange(256)
    return data[:at] + bytes([value]) + data[at + 1 :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    count = rng.choice((1, 1, 2, 4, 40))
    piece = bytes([rng.choice(_EDGE_BYTES)]) * count if rng.random() < 0.5 else rng.randbytes(min(count, 8))
    return data[:at] + piece + data[at:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _double(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 20)) + data[end:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b = _span(data, rng)
    c, d = _span(data, rng)
    if c < b:
        return data
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _decimal(data: bytes, rng: random.Random) -> bytes:
    """Another number where digits stand."""
    starts = [at for at in range(len(data)) if data[at : at + 1].isdigit() and not data[at - 1 : at].isdigit()]
    if not starts:
        return _put(data, b"%d" % rng.choice(_EDGE_NUMBERS), rng)
    start = end = rng.choice(starts)
    while data[end : end + 1].isdigit():
        end += 1
    value = rng.choice((int(data[start:end][:18]) + rng.choice((-1, 1)), rng.choice(_EDGE_NUMBERS), rng.randrange(300)))
    return data[:start] + b"%d" % value + data[end:]


def _binary(data: bytes, rng: random.Random) -> bytes:
    """A number of two, three, four or eight bytes, big or little endian."""
    width = rng.choice((2, 3, 4, 8))
    value = rng.choice(_EDGE_NUMBERS) & ((1 << 8 * width) - 1)
    at = rng.randrange(len(data) + 1)
    return data[:at] + value.to_bytes(width, rng.choice(("big", "little"))) + data[at + width :]


def _put(data: bytes, word: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + word + data[at + (len(word) if rng.random() < 0.5 else 0) :]


def _spliced(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start, end = _span(other, rng)
    at = rng.randrange(len(data) + 1)
    rest = data[at:] if rng.random() < 0.5 else b""
    return data[:at] + other[start:end] + rest


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    length = min(len(data) - start, rng.choice((1, 2, 4, 9, 24, 100)))
    return start, start + length


_MUTATIONS: Sequence[Callable[[bytes, random.Random], bytes]] = (
    _flip_bit,
    _set_byte,
    _set_byte,
    _insert,
    _delete,
    _double,
    _swap,
    _truncate,
    _decimal,
    _binary,
)
