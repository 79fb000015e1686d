from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.websocket.extensions import Offer, parse_offers


def parsed(value: bytes) -> tuple[Offer, ...]:
    return parse_offers(value, offers_max=4)


def test_names_and_parameters_are_read_in_their_order() -> None:
    assert parsed(b'Foo;a;B=1 ; c = "x-y" , bar') == (
        Offer(b"foo", ((b"a", None), (b"b", b"1"), (b"c", b"x-y"))),
        Offer(b"bar", ()),
    )


@pytest.mark.parametrize("value", [b"", b" ", b",", b" , ,\t"])
def test_an_empty_list_offers_nothing(value: bytes) -> None:
    assert parsed(value) == ()


@pytest.mark.parametrize(
    "value",
    [
        b";a",
        b"a;",
        b"a;b=",
        b'a;b="',
        b'a;b=""',
        b'a;b="x y"',
        b'a;b="x\\"y"',
        b"a b",
        b"a;b c",
        b"a=1",
        b"a/b",
        b'"a"',
    ],
)
def test_what_is_no_list_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"due|no value"):
        parsed(value)


def test_too_many_extensions_or_parameters_are_refused() -> None:
    assert len(parsed(b"a,b,c,d")) == 4
    with pytest.raises(ValueError, match="more than 4 extensions"):
        parsed(b"a,b,c,d,e")
    assert len(parsed(b"a" + b";p" * 16)[0].parameters) == 16
    with pytest.raises(ValueError, match="more than 16 parameters"):
        parsed(b"a" + b";p" * 17)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_refused(value: bytes) -> None:
    try:
        offers = parsed(value)
    except ValueError:
        return
    assert all(offer.name for offer in offers)
