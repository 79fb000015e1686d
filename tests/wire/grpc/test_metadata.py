"""Metadata: what goes out is checked, what comes in is taken as far as it can be read."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import LocalProtocolError
from wire.grpc.metadata import NO_METADATA, Metadata, decode_binary, decode_metadata, encode_binary, encode_metadata

NAMES = st.from_regex(r"x[0-9a-z_.\-]{0,20}", fullmatch=True)
PAIRS = st.lists(
    st.one_of(
        st.tuples(
            NAMES.filter(lambda name: not name.endswith("-bin")),
            st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)).map(str.strip),
        ),
        st.tuples(NAMES.map("{}-bin".format), st.binary()),
    ),
    max_size=6,
)


@given(PAIRS)
def test_what_is_sent_comes_back_in_order(pairs: list[tuple[str, str | bytes]]) -> None:
    assert list(decode_metadata(encode_metadata(Metadata(pairs)))) == pairs


def test_binary_values_go_out_unpadded_and_are_read_either_way() -> None:
    assert encode_binary(b"\x00\x01") == b"AAE"
    assert decode_binary(b"AAE") == decode_binary(b"AAE=") == b"\x00\x01"
    assert decode_binary(b"") == b""


@pytest.mark.parametrize("value", [b"A", b"AAE==", b"AA=", b"AA===", b"A=AE", b"AA-_", b"AA\x00E", b"====", b"AAAAA"])
def test_what_is_no_base64_is_dropped_and_the_rest_kept(value: bytes) -> None:
    assert decode_binary(value) is None
    assert list(decode_metadata([(b"x-bin", value), (b"x-b", b"kept")])) == [("x-b", "kept")]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), st.booleans(), st.sampled_from([b",", b", ", b" ,\t"]))
def test_joined_binary_values_are_split_before_they_are_decoded(parts: list[bytes], padded: bool, comma: bytes) -> None:
    joined = comma.join(base64.b64encode(part) if padded else encode_binary(part) for part in parts)
    assert list(decode_metadata([(b"x-bin", joined)])) == [("x-bin", part) for part in parts]


def test_joined_text_stays_joined_since_a_comma_may_belong_to_it() -> None:
    assert list(decode_metadata([(b"x-text", b"a, b")])) == [("x-text", "a, b")]


def test_what_belongs_to_the_protocol_is_not_the_applications() -> None:
    fields = [
        (b":path", b"/a/b"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"grpc-timeout", b"1S"),
        (b"grpc-status", b"0"),
        (b"grpc-whatever", b"1"),
        (b"grpc-previous-rpc-attempts", b"2"),
        (b"user-agent", b"x"),
    ]
    assert list(decode_metadata(fields)) == [("grpc-previous-rpc-attempts", "2"), ("user-agent", "x")]


@pytest.mark.parametrize(
    "field",
    [(b"x-a", b"\x80"), (b"x-a", b"\xc3\xbc"), (b"x-a", b"a\tb"), (b"x!a", b"v"), (b"x-\xff", b"v"), (b"", b"v")],
)
def test_a_pair_that_cannot_be_echoed_is_dropped(field: tuple[bytes, bytes]) -> None:
    assert decode_metadata([field]) is NO_METADATA


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        (("X-A", "v"), "only 0-9 a-z"),
        (("x a", "v"), "only 0-9 a-z"),
        (("", "v"), "only 0-9 a-z"),
        (("grpc-status", "0"), "reserved"),
        (("content-type", "x"), "reserved"),
        (("te", "x"), "reserved"),
        (("connection", "x"), "reserved"),
        (("x-bin", "text"), "must be bytes"),
        (("x-a", b"bytes"), "must end in -bin"),
        (("x-a", "früh"), "not printable ASCII"),
        (("x-a", "a\r\nb: c"), "not printable ASCII"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name_and_reason(pair: tuple[str, str | bytes], why: str) -> None:
    with pytest.raises(LocalProtocolError, match=why) as refused:
        encode_metadata([pair])
    assert repr(pair[0]) in str(refused.value)


def test_values_are_found_by_name_and_never_printed() -> None:
    metadata = Metadata([("x-a", "1"), ("x-b-bin", b"2"), ("x-a", "3")])
    assert metadata.text("x-a") == "1"
    assert metadata.all("x-a") == ["1", "3"]
    assert metadata.binary("x-b-bin") == b"2"
    assert metadata.text("x-b-bin") is None
    assert metadata.binary("x-a") is None
    assert len(metadata) == 3
    assert repr(metadata) == "Metadata(x-a, x-b-bin, x-a)"
    assert metadata == Metadata(list(metadata))
