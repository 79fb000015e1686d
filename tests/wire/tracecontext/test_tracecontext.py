"""Vectors from the rules of W3C Trace Context level 1."""

from __future__ import annotations

import pytest

from wire.limits import (
    TRACESTATE_BYTES_MAX,
    TRACESTATE_KEY_CHARS_MAX,
    TRACESTATE_MEMBERS_MAX,
    TRACESTATE_VALUE_CHARS_MAX,
)
from wire.tracecontext import Traceparent, encode_traceparent, parse_traceparent, parse_tracestate

TRACE = b"0af7651916cd43dd8448eb211c80319c"
SPAN = b"b7ad6b7169203331"
VALID = b"00-" + TRACE + b"-" + SPAN + b"-01"


def test_a_valid_traceparent_is_read_and_written_back() -> None:
    assert parse_traceparent([VALID]) == Traceparent(TRACE, SPAN, sampled=True)
    assert encode_traceparent(TRACE, SPAN, sampled=True) == VALID


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"ff-" + TRACE + b"-" + SPAN + b"-01",
        VALID + b"-extra",
        VALID + b"x",
        VALID.upper(),
        b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
        b"00-" + TRACE[:-1] + b"-" + SPAN + b"-01",
        b"00-" + TRACE + b"-" + SPAN + b"-0",
        b"0-" + TRACE + b"-" + SPAN + b"-01",
        b"cc-" + TRACE + b"-" + SPAN + b"-01x",
    ],
)
def test_an_invalid_traceparent_starts_a_new_trace(value: bytes) -> None:
    assert parse_traceparent([value]) is None


def test_two_traceparents_are_none() -> None:
    assert parse_traceparent([VALID, VALID]) is None


def test_a_later_version_may_carry_more_after_a_dash() -> None:
    parsed = parse_traceparent([b"cc-" + TRACE + b"-" + SPAN + b"-00-what"])
    assert parsed == Traceparent(TRACE, SPAN, sampled=False)


def test_blanks_around_the_value_are_trimmed_and_unknown_flags_ignored() -> None:
    assert parse_traceparent([b"  00-" + TRACE + b"-" + SPAN + b"-fe\t"]) == Traceparent(TRACE, SPAN, sampled=False)


def test_tracestate_fields_join_in_order_without_empty_members_and_duplicates() -> None:
    assert parse_tracestate([b"a=1, ,b=2", b"tenant@vendor=x,a=3"]) == b"a=1,b=2,tenant@vendor=x"


@pytest.mark.parametrize(
    "value", [b"A=1", b"a", b"a=", b"a=b=c", b"a=\x01", b"a b=1", b"x" * 257 + b"=1", b"a=" + b"x" * 257]
)
def test_one_invalid_member_drops_the_whole_tracestate(value: bytes) -> None:
    assert parse_tracestate([b"ok=1," + value]) == b""


def test_members_are_allowed_up_to_the_limit() -> None:
    members = [b"k%d=v" % number for number in range(TRACESTATE_MEMBERS_MAX + 1)]
    assert parse_tracestate(members[:-1]) == b",".join(members[:-1])
    assert parse_tracestate(members) == b""


def test_a_key_and_a_value_may_be_so_long_and_no_longer() -> None:
    key, value = b"k" * TRACESTATE_KEY_CHARS_MAX, b"v" * TRACESTATE_VALUE_CHARS_MAX
    assert parse_tracestate([key + b"=" + value]) == key + b"=" + value
    assert parse_tracestate([key + b"k=v"]) == b""
    assert parse_tracestate([b"k=v" + value]) == b""


def test_a_tracestate_over_its_bytes_is_dropped_whole() -> None:
    members = [b"k%02d=" % number + b"v" * 256 for number in range(TRACESTATE_MEMBERS_MAX)]
    fitting = members[: TRACESTATE_BYTES_MAX // 261]
    assert parse_tracestate(fitting) == b",".join(fitting)
    assert len(b",".join(members)) > TRACESTATE_BYTES_MAX
    assert parse_tracestate(members) == b""
