"""What the decoder refuses, what it bounds, and what it forgets in time. Who agrees with it: test_hpack_oracle.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.http1 import Field
from wire.http2 import huffman
from wire.http2.hpack import Decoder, Encoder, HeaderListEndless, HeaderListTooLarge, HpackError
from wire.limits import (
    HPACK_CACHED_BLOCK_BYTES_MAX,
    HPACK_CACHED_BLOCKS_MAX,
    HPACK_CACHED_STRING_BYTES_MAX,
    HPACK_CACHED_STRINGS_MAX,
    HPACK_FIELDS_MAX,
    HPACK_INTEGER_BYTES_MAX,
    HPACK_LIST_BYTES_MAX,
    HPACK_SIZE_UPDATES_MAX,
    HPACK_SKIPPED_FIELDS_MAX,
    HPACK_TABLE_BYTES_MAX,
)

ADDED = b"\x40"
NOT_ADDED = b"\x00"
METHOD_GET = b"\x82"
NEWEST = b"\xbe"
FIELD: Field = (b"a", b"b")
ADD_FIELD = ADDED + b"\x01a\x01b"  # Counts 34.


def _number(value: int, mark: int, fits: int) -> bytes:
    assert value >= fits
    octets = [mark | fits]
    value -= fits
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def _string(octets: bytes) -> bytes:
    return (bytes([len(octets)]) if len(octets) < 0x7F else _number(len(octets), 0, 0x7F)) + octets


def _coded(code: bytes) -> bytes:
    return (bytes([0x80 | len(code)]) if len(code) < 0x7F else _number(len(code), 0x80, 0x7F)) + code


def _add(name: bytes, value: bytes) -> bytes:
    return ADDED + _string(name) + _string(value)


# --- Refused ---


@pytest.mark.parametrize(
    ("block", "why"),
    [
        pytest.param("80", "index 0 ", id="index 0"),
        pytest.param("be", "index 62 .* hold 61 fields", id="the first index past the static table"),
        pytest.param("ff808001", "index 16511 ", id="an index far out"),
        pytest.param("7e0161", "index 62 ", id="a name past the tables, added"),
        pytest.param("0f2f0161", "index 62 ", id="a name past the tables, not added"),
        pytest.param("1f2f0161", "index 62 ", id="a name past the tables, never indexed"),
        pytest.param("8220", "size update after", id="a size update after a field"),
        pytest.param("208220", "size update after", id="a size update after a field and an update"),
        pytest.param("000161018282 3f".replace(" ", ""), "size update after", id="a size update at the end"),
        pytest.param("3fe21f", "update to 4097 octets; 4096 were announced", id="a size above ours"),
        pytest.param("ff", "ends inside an integer", id="an index cut off"),
        pytest.param("ff80", "ends inside an integer", id="an index cut off further on"),
        pytest.param("3f", "ends inside an integer", id="a size cut off"),
        pytest.param("0f", "ends inside an integer", id="the index of a name cut off"),
        pytest.param("40", "ends inside a field", id="no name"),
        pytest.param("4001", "string of 1 octets runs past", id="a name cut off"),
        pytest.param("400161", "ends inside a field", id="no value"),
        pytest.param("44", "ends inside a field", id="no value after an indexed name"),
        pytest.param("4002", "string of 2 octets runs past", id="a name longer than the block"),
        pytest.param("4403abcd", "string of 3 octets runs past", id="a value longer than the block"),
        pytest.param("4483abcd", "string of 3 octets runs past", id="a coded value longer than the block"),
        pytest.param("447fffffffff0f", "octets runs past", id="a value of 4 GiB"),
        pytest.param("4481ff", "padding", id="padding of eight ones"),
        pytest.param("448100", "padding", id="padding of zeros"),
        pytest.param("0481ff", "padding", id="padding of eight ones, not added"),
        pytest.param("4081ff0161", "padding", id="a name with such padding"),
        pytest.param("4484ffffffff", "end-of-string", id="the end-of-string symbol"),
        pytest.param("448400ffffffff", "end-of-string|padding", id="the same after a symbol"),
    ],
)
def test_blocks_that_the_rfc_calls_errors_are_refused(block: str, why: str) -> None:
    with pytest.raises(HpackError, match=why):
        Decoder().decode(bytes.fromhex(block))


@pytest.mark.parametrize("mark", [0x80, 0x00], ids=["index", "length"])
def test_an_integer_has_an_end(mark: int) -> None:
    lead = b"\xff" if mark else b"\x00\x7f"
    longest = lead + b"\x80" * (HPACK_INTEGER_BYTES_MAX - 1) + b"\x00"
    if mark:
        with pytest.raises(HpackError, match="index 127 "):
            Decoder().decode(longest)
    else:
        name = b"n" * 127
        assert Decoder().decode(longest + name + b"\x00") == [(name, b"")]
    with pytest.raises(HpackError, match=f"more than {HPACK_INTEGER_BYTES_MAX} octets"):
        Decoder().decode(lead + b"\x80" * HPACK_INTEGER_BYTES_MAX + b"\x00")


def test_two_size_updates_start_a_block_and_a_third_does_not() -> None:
    assert HPACK_SIZE_UPDATES_MAX == 2
    assert Decoder().decode(b"\x20\x3f\xe1\x1f" + METHOD_GET) == [(b":method", b"GET")]
    with pytest.raises(HpackError, match="more than 2 table size updates"):
        Decoder().decode(b"\x20\x21\x22" + METHOD_GET)


def test_a_block_of_nothing_and_one_of_updates_alone_hold_no_fields() -> None:
    assert Decoder().decode(b"") == []
    assert Decoder().decode(b"\x20") == []


# --- The table ---


def test_a_field_just_as_large_as_the_table_is_kept_and_a_larger_one_empties_it() -> None:
    decoder = Decoder()
    fits = (b"n", b"v" * (HPACK_TABLE_BYTES_MAX - 33))
    assert decoder.decode(ADD_FIELD + _add(*fits) + NEWEST) == [FIELD, fits, fits]
    assert decoder.table_bytes == HPACK_TABLE_BYTES_MAX
    larger = (b"n", fits[1] + b"v")
    assert decoder.decode(_add(*larger)) == [larger]
    assert decoder.table_bytes == 0
    with pytest.raises(HpackError, match="index 62 "):
        decoder.decode(NEWEST)


def test_a_size_update_evicts_the_oldest_and_the_table_grows_again() -> None:
    decoder = Decoder()
    decoder.decode(_add(b"a", b"1") + _add(b"a", b"2") + _add(b"a", b"3"))
    assert decoder.decode(_number(68, 0x20, 0x1F) + b"\xbe\xbf") == [(b"a", b"3"), (b"a", b"2")]
    assert decoder.table_bytes == 68
    assert decoder.decode(b"\x20\x3f\xe1\x1f") == []
    assert decoder.table_bytes == 0
    decoder.decode(ADD_FIELD * 3)
    assert decoder.table_bytes == 102


def test_a_name_may_come_from_the_field_that_its_own_addition_evicts() -> None:
    decoder = Decoder()
    decoder.decode(b"\x3f\x03" + ADD_FIELD)  # A table of 34 holds just this one.
    assert decoder.decode(b"\x7e\x01c" + NEWEST) == [(b"a", b"c"), (b"a", b"c")]
    assert decoder.table_bytes == 34


def test_a_table_smaller_than_the_default_waits_for_the_peer_to_say_so() -> None:
    decoder = Decoder(table_bytes_max=0)
    assert decoder.decode(ADD_FIELD + NEWEST) == [FIELD, FIELD]  # Sent before our SETTINGS were read.
    assert decoder.decode(b"\x20" + ADD_FIELD) == [FIELD]
    assert decoder.table_bytes == 0


def test_a_table_larger_than_the_default_waits_for_the_peer_to_ask_for_it() -> None:
    decoder = Decoder(table_bytes_max=8192)
    field = (b"n", b"v" * 5000)
    decoder.decode(_add(*field))
    assert decoder.table_bytes == 0
    assert decoder.decode(_number(8192, 0x20, 0x1F) + _add(*field) + NEWEST) == [field, field]


# --- Bounds ---


def test_as_many_fields_as_allowed_are_taken_and_one_more_is_not() -> None:
    decoder = Decoder()
    assert len(decoder.decode(METHOD_GET * HPACK_FIELDS_MAX)) == HPACK_FIELDS_MAX
    with pytest.raises(HeaderListTooLarge, match=f"more than {HPACK_FIELDS_MAX} header fields"):
        decoder.decode(METHOD_GET * (HPACK_FIELDS_MAX + 1))


def test_fields_are_counted_whatever_the_pieces_they_are_read_in() -> None:
    for literals in range(12):
        decoder = Decoder(fields_max=12)
        block = (NOT_ADDED + _string(b"n") + _string(b"v" * 9)) * literals + METHOD_GET * (12 - literals)
        assert len(decoder.decode(block)) == 12
        with pytest.raises(HeaderListTooLarge):
            decoder.decode(block + METHOD_GET)


def test_a_list_just_as_large_as_allowed_is_taken_and_a_larger_one_is_not() -> None:
    decoder = Decoder()
    value = b"v" * (HPACK_LIST_BYTES_MAX - 33)
    assert decoder.decode(NOT_ADDED + _string(b"n") + _string(value)) == [(b"n", value)]
    with pytest.raises(HeaderListTooLarge, match=f"{HPACK_LIST_BYTES_MAX + 1} octets; {HPACK_LIST_BYTES_MAX} are"):
        decoder.decode(NOT_ADDED + _string(b"n") + _string(value + b"v"))


def test_a_small_block_that_unfolds_from_the_table_is_too_large() -> None:
    decoder = Decoder()
    decoder.decode(_add(b"n", b"v" * 4000))
    assert len(decoder.decode(NEWEST * 16)) == 16  # 64,528 as the list counts.
    with pytest.raises(HeaderListTooLarge, match="a header list of 68561 octets"):
        decoder.decode(NEWEST * 17)


def test_a_list_that_unfolds_from_huffman_code_is_too_large() -> None:
    decoder = Decoder(list_bytes_max=1000)
    code = huffman.encode(b"0" * 968)
    assert len(code) == 605
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(NOT_ADDED + _string(b"n") + _coded(code))


@pytest.mark.parametrize("fields_max", [1, 2, 128])
def test_after_too_large_a_list_the_table_is_in_step(fields_max: int) -> None:
    decoder = Decoder(fields_max=fields_max, list_bytes_max=5000)
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(_add(b"x", b"y") * 200 + ADD_FIELD)
    assert decoder.decode(NEWEST) == [FIELD]
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(NOT_ADDED + _string(b"n") + _string(b"v" * 5000) + ADD_FIELD)
    assert decoder.decode(NEWEST) == [FIELD]


def test_fields_beyond_those_taken_are_read_up_to_a_limit() -> None:
    with pytest.raises(HeaderListTooLarge):
        Decoder(fields_max=10).decode(METHOD_GET * (10 + HPACK_SKIPPED_FIELDS_MAX))
    with pytest.raises(HeaderListEndless, match=f"more than {10 + HPACK_SKIPPED_FIELDS_MAX} header fields"):
        Decoder(fields_max=10).decode(METHOD_GET * (10 + HPACK_SKIPPED_FIELDS_MAX + 1))


def test_an_error_behind_too_many_fields_is_still_an_error() -> None:
    with pytest.raises(HpackError) as caught:
        Decoder(fields_max=2).decode(METHOD_GET * 3 + b"\x80")
    assert not isinstance(caught.value, HeaderListTooLarge)


def test_a_list_is_measured_in_full_once_a_large_field_has_been_seen_and_no_longer_than_needed() -> None:
    decoder = Decoder(list_bytes_max=9000)
    decoder.decode(_add(b"n", b"v" * 4000))
    assert len(decoder.decode(NEWEST * 2)) == 2
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(NEWEST * 3)
    decoder.decode(b"\x20\x3f\xe1\x1f" + METHOD_GET * 100)
    assert len(decoder.decode(METHOD_GET * 120)) == 120


@given(
    st.lists(
        st.lists(st.sampled_from([METHOD_GET, NEWEST, b"\xbf", ADD_FIELD, _add(b"n", b"v" * 700)]), max_size=20),
        max_size=8,
    )
)
def test_no_list_is_larger_than_allowed_and_none_is_refused_for_nothing(blocks: list[list[bytes]]) -> None:
    bounded, free = Decoder(list_bytes_max=2000, fields_max=10), Decoder(list_bytes_max=1 << 30, fields_max=1 << 20)
    for parts in [[ADD_FIELD, ADD_FIELD], *blocks]:
        try:
            fields = free.decode(b"".join(parts))
        except HpackError:
            with pytest.raises(HpackError):
                bounded.decode(b"".join(parts))
            return
        if sum(32 + len(name) + len(value) for name, value in fields) <= 2000 and len(fields) <= 10:
            assert bounded.decode(b"".join(parts)) == fields
        else:
            with pytest.raises(HeaderListTooLarge):
                bounded.decode(b"".join(parts))
        assert bounded.table_bytes == free.table_bytes


# --- What is kept to be fast ---


def test_kept_strings_are_few_and_short() -> None:
    decoder = Decoder()
    for number in range(3 * HPACK_CACHED_STRINGS_MAX):
        value = b"%04d" % number
        assert decoder.decode(NOT_ADDED + _string(b"n") + _coded(huffman.encode(value))) == [(b"n", value)]
        assert len(decoder._strings) <= HPACK_CACHED_STRINGS_MAX
    decoder = Decoder()
    longest = b"0" * (HPACK_CACHED_STRING_BYTES_MAX * 8 // 5)
    for value, kept in ((longest, 1), (longest + b"0", 1), (longest + b"1", 1)):
        assert decoder.decode(NOT_ADDED + _string(b"n") + _coded(huffman.encode(value))) == [(b"n", value)]
        assert len(decoder._strings) == kept


def test_a_kept_string_is_told_from_the_same_octets_sent_plain() -> None:
    decoder = Decoder()
    code = huffman.encode(b"abc")
    for _ in range(2):
        assert decoder.decode(NOT_ADDED + _string(b"n") + _coded(code)) == [(b"n", b"abc")]
        assert decoder.decode(NOT_ADDED + _string(b"n") + _string(code)) == [(b"n", code)]


def test_kept_blocks_are_few_and_short() -> None:
    decoder = Decoder()
    for count in range(1, HPACK_CACHED_BLOCK_BYTES_MAX + 5):
        assert len(decoder.decode(METHOD_GET * count)) == count
        assert len(decoder._blocks) <= HPACK_CACHED_BLOCKS_MAX
    assert max(map(len, decoder._blocks)) == HPACK_CACHED_BLOCK_BYTES_MAX


def test_a_kept_block_means_something_else_once_the_table_has_changed() -> None:
    decoder = Decoder()
    block = METHOD_GET + NEWEST
    decoder.decode(ADD_FIELD)
    assert decoder.decode(block) == decoder.decode(block) == [(b":method", b"GET"), FIELD]
    decoder.decode(_add(b"c", b"d"))
    assert decoder.decode(block) == decoder.decode(block) == [(b":method", b"GET"), (b"c", b"d")]
    decoder.decode(b"\x20")
    with pytest.raises(HpackError):
        decoder.decode(block)


def test_the_list_of_a_kept_block_belongs_to_the_caller() -> None:
    decoder = Decoder()
    for _ in range(3):
        fields = decoder.decode(METHOD_GET)
        fields.append(FIELD)
        assert len(fields) == 2


def test_a_decoder_holds_little_after_any_number_of_blocks() -> None:
    decoder, encoder = Decoder(), Encoder()
    for number in range(2000):
        decoder.decode(encoder.encode([(b"name-%d" % number, b"value-%d" % number), (b":path", b"/%d" % number)]))
        decoder.decode(NOT_ADDED + _coded(huffman.encode(b"n%d" % number)) + _string(b"v") + METHOD_GET)
        decoder.decode(METHOD_GET * (number % 60))
    held = sum(len(code) + len(plain) for code, plain in decoder._strings.items())
    assert held <= HPACK_CACHED_STRINGS_MAX * HPACK_CACHED_STRING_BYTES_MAX * 3
    assert len(decoder._table) <= 62 + HPACK_TABLE_BYTES_MAX // 32
    assert decoder.table_bytes <= HPACK_TABLE_BYTES_MAX
