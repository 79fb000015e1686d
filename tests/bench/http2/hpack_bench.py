"""What a header list costs in HPACK: ours, the `hpack` package, and the native codec of `jh2` where it is installed.

The list is that of a steady gRPC call: eight fields that repeat, three that never do (deadline, request id, trace
context). Every encoder's blocks go through every decoder on one long connection, best of several rounds; first it is
asserted that all of them read the same fields. Beside it, what the worst octets we know cost our decoder.

Sketch before measuring: eleven dict look-ups and three literals to encode, 2 to 4 us; the same to decode, and 50 ns for
each octet of Huffman code. Target: 8 us each. Run by hand: `python tests/bench/http2/hpack_bench.py`.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import hpack

from wire.http1 import Field
from wire.http2 import huffman
from wire.http2.hpack import Decoder, Encoder, HeaderListTooLarge

LISTS = 200  # A round shorter than a time slice, so that the best one was not interrupted.
ROUNDS = 100
WORST_BLOCK_BYTES = 16_384

T = TypeVar("T")
Encode = Callable[[list[Field]], bytes]
Decode = Callable[[bytes], Sequence[Sequence[object]]]  # Fields, whatever else a codec says about each.


def _call(rng: random.Random) -> list[Field]:
    request_id = f"{rng.getrandbits(128):032x}"
    return [
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
        (b":authority", b"gpu-a.mesh.example:7443"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"user-agent", b"grpc-python/1.85.3 grpc-c/54.0.0 (linux; chttp2)"),
        (b"grpc-accept-encoding", b"identity, deflate, gzip"),
        (b"grpc-timeout", b"%du" % rng.randrange(100_000, 1_000_000)),
        (b"x-request-id", f"{request_id[:8]}-{request_id[8:12]}-{request_id[12:16]}-{request_id[16:]}".encode()),
        (b"traceparent", b"00-%032x-%016x-01" % (rng.getrandbits(128), rng.getrandbits(64))),
    ]


def _their_encoder(encoder: hpack.Encoder) -> Encode:
    return lambda fields: encoder.encode(fields, huffman=True)


def _their_decoder(decoder: hpack.Decoder) -> Decode:
    return lambda block: list(decoder.decode(block, raw=True))


def _codecs() -> dict[str, tuple[Callable[[], Encode], Callable[[], Decode]]]:
    codecs: dict[str, tuple[Callable[[], Encode], Callable[[], Decode]]] = {
        "ours": (lambda: Encoder().encode, lambda: Decoder().decode),
        "hpack": (lambda: _their_encoder(hpack.Encoder()), lambda: _their_decoder(hpack.Decoder())),
    }
    try:
        native = importlib.import_module("jh2._hazmat")
    except ImportError:
        return codecs

    def encoder() -> Encode:
        encode = native.Encoder().encode
        return lambda fields: encode([(*field, False) for field in fields], True)

    def decoder() -> Decode:
        decode = native.Decoder().decode
        return lambda block: decode(block, True)

    codecs["jh2 (native)"] = (encoder, decoder)
    return codecs


def _best_us(rounds: int, once: Callable[[], None], count: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        once()
        best = min(best, time.perf_counter() - began)
    return best / count * 1e6


def _measure(name: str, lists: list[list[Field]]) -> None:
    codecs = _codecs()
    encode = codecs[name][0]()
    blocks = [encode(fields) for fields in lists]

    def encode_all() -> None:
        encode = codecs[name][0]()
        for fields in lists:
            encode(fields)

    print(
        f"{name:>14} encodes: {_best_us(ROUNDS, encode_all, LISTS):6.2f} us, {len(blocks[-1])} octets; decoding that:"
    )
    for reader, (_, make) in codecs.items():
        decode = make()
        for block, fields in zip(blocks, lists, strict=True):
            decoded = [tuple(field[:2]) for field in decode(block)]
            assert decoded == fields, reader

        def decode_all(make: Callable[[], Decode] = make) -> None:
            decode = make()
            for block in blocks:
                decode(block)

        print(f"{reader:>30}: {_best_us(ROUNDS, decode_all, LISTS):6.2f} us")


def _measure_worst() -> None:
    rare = huffman.encode(b"\x16" * 16)
    long = huffman.encode(b"0" * 26_212)
    assert len(long) == 127 + (0x7F << 7)
    for what, piece in (
        ("indexes", b"\x82"),
        ("additions of nothing", b"\x41\x00"),
        ("additions that evict", b"\x40\x01a\x7f\x81\x1d" + b"v" * 3840),
        ("literals of rare symbols", b"\x00\x01a" + bytes([0x80 | len(rare)]) + rare),
        ("one Huffman string", b"\x00\x01a\xff\x80\x7f" + long),
    ):
        block = piece * max(1, WORST_BLOCK_BYTES // len(piece))
        decoder = Decoder()

        def once(decoder: Decoder = decoder, block: bytes = block) -> None:
            with contextlib.suppress(HeaderListTooLarge):
                decoder.decode(block)

        print(f"{what:>30}: {_best_us(ROUNDS, once, len(block)) * 1e3:6.1f} ns an octet")


def main() -> None:
    rng = random.Random(7)
    lists = [_call(rng) for _ in range(LISTS)]
    for name in _codecs():
        _measure(name, lists)
    steady = [lists[0]] * LISTS
    encode = Encoder().encode
    blocks = [encode(fields) for fields in steady]
    decoder = Decoder()
    _run(decoder.decode, blocks)
    encode_us = _best_us(ROUNDS, lambda: _run(Encoder().encode, steady), LISTS)
    decode_us = _best_us(ROUNDS, lambda: _run(decoder.decode, blocks[-LISTS // 2 :]), LISTS // 2)
    print(f"ours, nothing varies: {encode_us:.2f} us encode, {decode_us:.2f} us decode")
    print("Worst octets for our decoder:")
    _measure_worst()


def _run(call: Callable[[T], object], inputs: Sequence[T]) -> None:
    for value in inputs:
        call(value)


if __name__ == "__main__":
    main()
