"""What the encoder adds to the table, what it never adds, how it tells sizes. Who decodes it: the oracle test."""

from __future__ import annotations

import pytest

from wire.http1 import Field
from wire.http2 import huffman
from wire.http2.hpack import Decoder, Encoder, NeverIndexed

REQUEST: list[Field] = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"gpu-a.mesh.example:7443"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
    (b"user-agent", b"grpc-python/1.85.3 grpc-c/54.0.0 (linux; chttp2)"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
]


def _varying(number: int) -> list[Field]:
    return [
        (b"grpc-timeout", b"%du" % (100_000 + number)),
        (b"x-request-id", b"4bf92f35-77b3-4da6-a3ce-%012x" % number),
        (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-%016x-01" % (number + 1)),
    ]


def test_a_steady_list_becomes_one_octet_a_field_and_the_table_rests() -> None:
    encoder = Encoder()
    for _ in range(2):
        encoder.encode(REQUEST)
    block = encoder.encode(REQUEST)
    assert len(block) == len(REQUEST)
    assert all(octet >= 0x80 for octet in block)
    assert encoder.encode(REQUEST) == block


def test_values_that_never_repeat_leave_the_table_alone_after_their_names_are_in() -> None:
    encoder, decoder = Encoder(), Decoder()
    for number in range(3):
        decoder.decode(encoder.encode([*REQUEST, *_varying(number)]))
    held = encoder.table_bytes
    for number in range(3, 500):
        fields = [*REQUEST, *_varying(number)]
        block = encoder.encode(fields)
        assert decoder.decode(block) == fields
        assert encoder.table_bytes == held
        assert len(block) == len(REQUEST) + sum(3 + len(value) for _, value in _varying(number))


def test_a_field_is_added_with_a_new_name_or_when_it_comes_again() -> None:
    encoder = Encoder()
    assert encoder.encode([(b"x-a", b"1")])[0] & 0xC0 == 0x40  # A new name.
    assert encoder.encode([(b"x-a", b"2")])[0] & 0xF0 == 0x00  # A known name with another value.
    assert encoder.encode([(b"x-a", b"2")])[0] & 0xC0 == 0x40  # Again.
    assert encoder.encode([(b"x-a", b"2"), (b"x-a", b"1")]) == b"\xbe\xbf"


def test_what_is_added_is_coded_where_that_is_shorter_and_the_rest_is_plain() -> None:
    encoder = Encoder()
    code = huffman.encode(b"www.example.com")
    assert encoder.encode([(b"x-a", b"www.example.com")]).endswith(bytes([0x80 | len(code)]) + code)
    assert encoder.encode([(b"x-a", b"a.example.com")]).endswith(b"\x0da.example.com")
    assert encoder.encode([(b"x-b", b"\x00\x01\x02")]).endswith(b"\x03\x00\x01\x02")


@pytest.mark.parametrize(
    ("field", "secret"),
    [
        ((b"authorization", b"Bearer aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), True),
        ((b"proxy-authorization", b"Basic dTpw"), True),
        ((b"proxy-anything", b"1"), True),
        ((b"set-cookie", b"session=0123456789abcdef0123456789abcdef"), True),
        ((b"x-api-key", b"k"), True),
        ((b"api-key", b"k"), True),
        ((b"cookie", b"a=0123456789abcdefg"), True),
        ((b"cookie", b"a=0123456789abcdefgh"), False),
        (NeverIndexed((b"x-a", b"1")), True),
        (NeverIndexed((b":method", b"GET")), True),
        ((b"x-a", b"1"), False),
    ],
)
def test_secrets_are_never_indexed(field: Field, secret: bool) -> None:
    encoder = Encoder()
    for _ in range(4):
        block = encoder.encode([field])
        assert (block[0] & 0xF0 == 0x10) is secret
        if secret:
            assert Decoder().decode(block) == [field]
    assert (encoder.table_bytes == 0) is secret


def test_a_never_indexed_field_is_literal_even_when_the_same_one_is_in_the_table() -> None:
    encoder, decoder = Encoder(), Decoder()
    assert decoder.decode(encoder.encode([(b"x-a", b"1"), (b"x-a", b"1")])) == [(b"x-a", b"1")] * 2
    fields = decoder.decode(encoder.encode([NeverIndexed((b"x-a", b"1")), (b"x-a", b"1")]))
    assert [isinstance(field, NeverIndexed) for field in fields] == [True, False]


def test_a_field_larger_than_its_share_does_not_push_out_the_others() -> None:
    encoder = Encoder()
    share = (b"n", b"v" * (4096 // 4 - 33))
    encoder.encode([share])
    assert encoder.table_bytes == 1024
    for _ in range(3):
        assert encoder.encode([(b"m", share[1] + b"v")])[0] == 0x00
    assert encoder.table_bytes == 1024


def test_what_came_once_long_ago_is_forgotten() -> None:
    encoder = Encoder()
    encoder.encode([(b":path", b"/once")])
    for number in range(200):
        encoder.encode([(b":path", b"/%030d" % number)])
        assert encoder._once_bytes <= 4096
        assert encoder._once_bytes == sum(32 + len(name) + len(value) for name, value in encoder._once)
    assert encoder.encode([(b":path", b"/once")])[0] & 0xF0 == 0x00
    assert encoder.table_bytes == 0


# --- The size of the table ---


def test_no_size_is_told_while_nothing_has_changed() -> None:
    encoder = Encoder()
    encoder.set_table_bytes_max(65536)  # More than we use.
    assert encoder.encode([(b":method", b"GET")]) == b"\x82"
    encoder.set_table_bytes_max(4096)
    assert encoder.encode([(b":method", b"GET")]) == b"\x82"


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([0], "20"),
        ([100], "3f45"),
        ([0, 4096], "203fe11f"),
        ([4096, 0, 100, 50], "203f13"),
        ([100, 200], "3f453fa901"),
        ([65536, 0, 65536], "203fe11f"),
    ],
)
def test_the_smallest_and_the_last_size_start_the_next_block(sizes: list[int], told: str) -> None:
    encoder, decoder = Encoder(), Decoder()
    decoder.decode(encoder.encode(REQUEST))
    for size in sizes:
        encoder.set_table_bytes_max(size)
    block = encoder.encode([(b":method", b"GET")])
    assert block == bytes.fromhex(told) + b"\x82"
    decoder.decode(block)
    assert decoder.table_bytes == encoder.table_bytes
    assert encoder.encode([(b":method", b"GET")]) == b"\x82"


def test_a_smaller_table_evicts_the_oldest_fields() -> None:
    encoder, decoder = Encoder(), Decoder()
    decoder.decode(encoder.encode([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]))
    encoder.set_table_bytes_max(70)
    assert encoder.table_bytes == 68
    fields = [(b"c", b"3"), (b"b", b"2"), (b"a", b"1")]
    assert decoder.decode(encoder.encode(fields)) == fields
    assert decoder.table_bytes == encoder.table_bytes


def test_an_encoder_that_wants_a_small_table_says_so_first() -> None:
    encoder, decoder = Encoder(table_bytes_max=0), Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    block = encoder.encode(REQUEST)
    assert block[0] == 0x20
    assert decoder.decode(block) == REQUEST
    assert decoder.table_bytes == encoder.table_bytes == 0


def test_an_encoder_grows_its_table_no_further_than_it_was_allowed_by_both() -> None:
    encoder, decoder = Encoder(table_bytes_max=8192), Decoder(table_bytes_max=16384)
    assert encoder.encode([(b":method", b"GET")]) == b"\x82"
    encoder.set_table_bytes_max(16384)
    block = encoder.encode([(b":method", b"GET")])
    assert block == b"\x3f\xe1\x3f\x82"
    decoder.decode(block)
    for number in range(200):
        fields = [(b"n%d" % number, b"v" * 100)]
        assert decoder.decode(encoder.encode(fields)) == fields
        assert decoder.table_bytes == encoder.table_bytes <= 8192
    assert encoder.table_bytes > 8000


def test_an_encoder_holds_little_after_any_number_of_blocks() -> None:
    encoder = Encoder()
    for number in range(3000):
        encoder.encode([*REQUEST, *_varying(number), (b"n%d" % number, b"v"), (b":path", b"/%d" % number)])
    assert len(encoder._fields) == len(encoder._numbers) <= 128
    assert len(encoder._name_numbers) <= 128
    assert len(encoder._indexed) <= 128 + 61
    assert len(encoder._names) <= 128 + 61
    assert len(encoder._once) <= 128
