from __future__ import annotations

import pytest

from infermesh.testing.websocket_frames import ACCEPT, UPGRADE_LINES
from wire.http1 import Field
from wire.limits import WEBSOCKET_EXTENSION_OFFERS_MAX, WEBSOCKET_SUBPROTOCOLS_MAX
from wire.websocket import (
    DeflateConfig,
    HandshakeRefused,
    Opening,
    accept_fields,
    agree,
    check_connect,
    check_upgrade,
    is_same_origin,
    wants_websocket,
)


def fields(*more: bytes, without: bytes = b"") -> list[Field]:
    lines = [line for line in UPGRADE_LINES if not (without and line.startswith(without))]
    return [(name, value) for name, _, value in (line.partition(b": ") for line in (*lines, *more))]


def opened(*more: bytes) -> Opening:
    return check_upgrade(b"GET", 1, fields(*more))


def refused(*more: bytes, without: bytes = b"", method: bytes = b"GET", minor: int = 1) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        check_upgrade(method, minor, fields(*more, without=without))
    return caught.value


def test_the_example_of_the_standard_is_answered_as_the_standard_says() -> None:
    answer = accept_fields(opened(), subprotocol=None, deflate=None)
    assert answer == [(b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-accept", ACCEPT)]


@pytest.mark.parametrize(
    "line",
    [b"upgrade: WebSocket", b"upgrade: h2c, websocket", b"upgrade: h2c ,\twebsocket"],
)
def test_a_request_wants_a_websocket_when_its_upgrade_names_one(line: bytes) -> None:
    assert wants_websocket(fields(line, without=b"upgrade"))


@pytest.mark.parametrize("line", [b"upgrade: h2c", b"upgrade: websockets", b"x-upgrade: websocket"])
def test_a_request_with_another_upgrade_wants_none(line: bytes) -> None:
    assert not wants_websocket(fields(line, without=b"upgrade"))


def test_connection_may_name_further_options_in_any_case() -> None:
    line = b"connection: keep-alive, UPGRADE"
    assert check_upgrade(b"GET", 1, fields(line, without=b"connection")).key


@pytest.mark.parametrize(
    ("more", "without"),
    [
        ((), b"connection"),
        ((b"connection: keep-alive",), b"connection"),
        ((), b"sec-websocket-key"),
        ((b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",), b""),
        ((b"sec-websocket-key: short==",), b"sec-websocket-key"),
        ((b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAAAA",), b"sec-websocket-key"),  # Eighteen bytes.
        ((b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=A",), b"sec-websocket-key"),
        ((b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAA*==",), b"sec-websocket-key"),
        ((b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAB==",), b"sec-websocket-key"),  # Bits that no byte has.
        ((b"origin: https://a", b"origin: https://b"), b""),
        ((b"sec-websocket-protocol: a b",), b""),
        ((b"sec-websocket-protocol: a,,b",), b""),
        ((b"sec-websocket-protocol: a", b"sec-websocket-protocol: a"), b""),
        ((b"sec-websocket-extensions: permessage-deflate; =1",), b""),
    ],
)
def test_what_is_no_opening_is_a_bad_request(more: tuple[bytes, ...], without: bytes) -> None:
    assert refused(*more, without=without).status_hint == 400


def test_http_1_0_has_no_websockets() -> None:
    assert refused(minor=0).status_hint == 400


def test_another_method_is_told_which_is_due() -> None:
    error = refused(method=b"POST")
    assert error.status_hint == 405
    assert error.fields == ((b"allow", b"GET"),)


@pytest.mark.parametrize("said", [b"8", b"14", b"13, 8", b"013", b""])
def test_another_version_is_told_which_one_is_spoken(said: bytes) -> None:
    error = refused(b"sec-websocket-version: " + said, without=b"sec-websocket-version")
    assert error.status_hint == 426
    assert (b"sec-websocket-version", b"13") in error.fields
    assert (b"upgrade", b"websocket") in error.fields
    assert (b"connection", b"upgrade") in error.fields


def test_a_missing_or_doubled_version_is_another_version() -> None:
    assert refused(without=b"sec-websocket-version").status_hint == 426
    assert refused(b"sec-websocket-version: 13").status_hint == 426


def test_the_first_subprotocol_that_both_know_is_chosen_and_said() -> None:
    opening = opened(b"sec-websocket-protocol: soap, infermesh.v1", b"sec-websocket-protocol: other")
    assert opening.subprotocols == (b"soap", b"infermesh.v1", b"other")
    assert opening.choose((b"other", b"infermesh.v1")) == b"infermesh.v1"
    answer = accept_fields(opening, subprotocol=b"infermesh.v1", deflate=None)
    assert answer[-1] == (b"sec-websocket-protocol", b"infermesh.v1")


def test_without_a_common_subprotocol_none_is_said() -> None:
    assert opened(b"sec-websocket-protocol: soap").choose((b"infermesh.v1",)) is None
    assert opened().choose((b"infermesh.v1",)) is None


def test_as_many_subprotocols_as_allowed_are_read_and_one_more_is_refused() -> None:
    names = [b"p%d" % number for number in range(WEBSOCKET_SUBPROTOCOLS_MAX)]
    assert len(opened(b"sec-websocket-protocol: " + b",".join(names)).subprotocols) == WEBSOCKET_SUBPROTOCOLS_MAX
    assert refused(b"sec-websocket-protocol: " + b",".join([*names, b"last"])).status_hint == 400


def test_as_many_extensions_as_allowed_are_read_and_one_more_is_refused() -> None:
    offers = b",".join([b"x-extension"] * WEBSOCKET_EXTENSION_OFFERS_MAX)
    assert len(opened(b"sec-websocket-extensions: " + offers).offers) == WEBSOCKET_EXTENSION_OFFERS_MAX
    assert refused(b"sec-websocket-extensions: " + offers + b",x").status_hint == 400


def test_agreed_compression_is_said_in_the_answer() -> None:
    opening = opened(b"sec-websocket-extensions: permessage-deflate; client_max_window_bits")
    answer = accept_fields(opening, subprotocol=None, deflate=agree(opening.offers, DeflateConfig()))
    said = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert answer[-1] == (b"sec-websocket-extensions", said)


# --- over HTTP/2 ---

CONNECT: list[Field] = [(b"host", b"mesh"), (b"sec-websocket-version", b"13")]


def test_a_connect_needs_no_key_and_gets_no_proof() -> None:
    opening = check_connect(b"websocket", [*CONNECT, (b"origin", b"https://a")])
    assert (opening.key, opening.origin) == (b"", b"https://a")
    assert accept_fields(opening, subprotocol=None, deflate=None) == []


def test_a_connect_for_another_protocol_is_not_implemented() -> None:
    with pytest.raises(HandshakeRefused) as caught:
        check_connect(b"connect-udp", CONNECT)
    assert caught.value.status_hint == 501


def test_a_connect_with_another_version_is_refused_without_naming_an_upgrade() -> None:
    with pytest.raises(HandshakeRefused) as caught:
        check_connect(b"websocket", [(b"sec-websocket-version", b"8")])
    assert caught.value.status_hint == 400
    assert caught.value.fields == ((b"sec-websocket-version", b"13"),)


# --- origins ---


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (b"http://mesh:8080", b"mesh:8080", True),
        (b"https://MESH:8080", b"mesh:8080", True),
        (b"http://mesh", b"mesh:8080", False),
        (b"http://evil.example", b"mesh", False),
        (b"null", b"mesh", False),
        (b"null", b"", False),
        (b"", b"", False),
    ],
)
def test_a_page_has_the_origin_of_the_host_that_it_came_from(origin: bytes, host: bytes, *, same: bool) -> None:
    assert is_same_origin(origin, host) is same
