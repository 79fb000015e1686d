"""`grpc-timeout`: what is read, what is refused, and that a deadline never grows on its way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import LocalProtocolError, RemoteProtocolError
from wire.grpc.timeout import encode_timeout, parse_timeout


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"1M", 60.0),
        (b"2S", 2.0),
        (b"250m", 0.25),
        (b"1u", 1e-6),
        (b"1n", 1e-9),
        (b"0n", 0.0),
        (b"00000001S", 1.0),
        (b"99999999H", 99_999_999 * 3600.0),
    ],
)
def test_one_to_eight_digits_and_a_unit_are_read(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"1",
        b"S",
        b"123456789S",
        b"1s",
        b"1h",
        b"-1S",
        b"+1S",
        b"1.5S",
        b" 1S",
        b"1S ",
        b"1 S",
        b"1SS",
        b"1S\n",
        b"\xd9\xa1S",
    ],
)
def test_anything_else_is_refused_with_what_was_seen(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not 1 to 8 digits"):
        parse_timeout(value)


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_what_is_sent_never_exceeds_what_remains(seconds: float) -> None:
    wire = encode_timeout(seconds)
    read = parse_timeout(wire)
    assert read <= seconds
    if seconds < 99_999_998 * 3600:
        assert read >= seconds * (1 - 1e-5) - 1e-9


@pytest.mark.parametrize(
    ("seconds", "wire"),
    [(0.25, b"250000u"), (1e-9, b"1n"), (0.05, b"50000000n"), (3600.0, b"3600000m"), (1e16, b"99999999H")],
)
def test_the_finest_unit_that_holds_it_is_used(seconds: float, wire: bytes) -> None:
    assert encode_timeout(seconds) == wire


@pytest.mark.parametrize("seconds", [0.0, -1.0, 5e-10, math.nan])
def test_a_deadline_that_has_passed_is_not_sent(seconds: float) -> None:
    with pytest.raises(LocalProtocolError, match="passed"):
        encode_timeout(seconds)


def test_no_deadline_has_no_field() -> None:
    with pytest.raises(LocalProtocolError, match="leave the field out"):
        encode_timeout(math.inf)
