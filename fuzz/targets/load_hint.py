"""Invariant: any x-infermesh-load value is a hint within its bounds, the same once written again, or None.

A hint is never worth an error, so nothing is raised. Differential: a plain reading of what the text states.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from fuzz.target import Target, demand
from infermesh.planes.data.heads import encode_load, parse_load


def check(data: bytes) -> Hashable:
    hint = parse_load(data)
    if hint is None:
        return "none"
    demand(0.0 <= hint.kv_usage <= 1.0, "KV usage", hint)
    demand(hint.queue_len >= 0, "queue", hint)
    demand(hint.running >= 0, "running", hint)
    demand(hint.incarnation >= 0, "incarnation", hint)
    demand(max(hint.queue_len, hint.running, hint.incarnation) < 1 << 63, "a number that no counter holds", hint)
    written = encode_load(hint)
    again = parse_load(written)
    demand(again is not None, "written again, no hint", written)
    assert again is not None
    demand(encode_load(again) == written, "written twice, two texts", written)
    demand(abs(again.kv_usage - hint.kv_usage) <= 0.00005 + 1e-12, "another KV usage", hint, again)
    demand(written.isascii() and b"\r" not in written and b"\n" not in written, "no field value", written)
    return "hint", hint.queue_len > 9, hint.kv_usage > 0


def seeds() -> Iterator[bytes]:
    yield b"i=1;q=0;r=3;k=0.5000"
    yield b"k=1;r=0;q=12;i=1732460000000"
    yield b"i=1;q=2;r=3;k=1e-9;x=later;y=1"
    yield b"i=-1;q=+2;r= 3;k=nan"
    yield b"i=1_0;q=2;r=3;k=inf"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("infermesh.planes.data.heads",),
    words=(b"i=", b"q=", b"r=", b"k=", b";", b"nan", b"inf", b"-0", b"1e308", b"1e400", b"9" * 40, b"_"),
    input_bytes_max=5000,
)
