"""Heads that must pass, and every head that two readers could read in two ways."""

from __future__ import annotations

import pytest

from wire.errors import RemoteProtocolError
from wire.http1 import CHUNKED, UNTIL_CLOSE, AmbiguousFraming, head_end, parse_request_head, parse_response_head
from wire.limits import (
    HTTP1_CONTENT_LENGTH_DIGITS_MAX,
    HTTP1_HEAD_BYTES_MAX,
    HTTP1_HEADERS_MAX,
    HTTP1_TARGET_BYTES_MAX,
)


def request(*lines: bytes, start: bytes = b"POST /v1/completions HTTP/1.1", host: bytes = b"Host: mesh\r\n") -> bytes:
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def response(*lines: bytes, start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return start + b"\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def test_a_plain_request_is_read_with_lower_case_names_in_order() -> None:
    head = parse_request_head(request(b"Content-Length: 5", b"X-Two: a", b"x-two: b"))
    assert head.method == b"POST"
    assert head.target == b"/v1/completions"
    assert head.fields == [(b"host", b"mesh"), (b"content-length", b"5"), (b"x-two", b"a"), (b"x-two", b"b")]
    assert (head.framing, head.keep_alive, head.minor) == (5, True, 1)


def test_blanks_around_a_value_are_not_part_of_it() -> None:
    head = parse_request_head(request(b"Content-Length:\t5 \t", b"Expect: 100-continue ", host=b"Host: mesh \r\n"))
    assert (head.framing, head.expect, head.host) == (5, b"100-continue", b"mesh")


def test_several_expectations_are_none_that_we_know() -> None:
    assert parse_request_head(request(b"Expect: a-miracle", b"Expect: 100-continue")).expect != b"100-continue"


@pytest.mark.parametrize("byte", [b"\x00", b"\x0b", b"\x1b", b"\x7f"])  # Fuzzing found that llhttp takes most of them.
def test_a_reason_with_control_characters_is_no_response(byte: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_response_head(response(start=b"HTTP/1.1 200 O" + byte + b"K"), request_method=b"GET")
    assert caught.value.status_hint == 502


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((b"Content-Length: 5", b"Content-Length: 5"), 400),
        ((b"Content-Length: 5", b"Content-Length: 6"), 400),
        ((b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400),
        ((b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
        ((b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"), 400),
        ((b"Transfer-Encoding: chunked, chunked",), 400),
        ((b"Transfer-Encoding: xchunked",), 400),
        ((b"Content-Length: +5",), 400),
        ((b"Content-Length: -5",), 400),
        ((b"Content-Length: 5, 5",), 400),
        ((b"Content-Length: 0x5",), 400),
        ((b"Content-Length: 1_0",), 400),
        ((b"Content-Length: \xd9\xa5",), 400),
        ((b"Content-Length:",), 400),
        ((b"Content-Length: 99999999999999999999",), 400),
    ],
)
def test_a_body_whose_end_could_be_read_twice_is_called_ambiguous(lines: tuple[bytes, ...], status: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_request_head(request(*lines))
    assert caught.value.status_hint == status
    assert isinstance(caught.value, AmbiguousFraming)


@pytest.mark.parametrize(
    "data",
    [
        request(b"Transfer-Encoding: gzip, chunked"),
        request(b"Transfer-Encoding : chunked"),
        request(b"Transfer-Encoding:\x0bchunked"),
        request(b"X: a\r\n folded"),
        request(b"X: a\r\n\tfolded"),
        request(b"X: a\x00b"),
        request(b"X\x00: a"),
        request(b"X: a\rb"),
        request(b"X: a\nY: b"),
        request(b"X Y: a"),
        request(b": a"),
        request(b"X: a\x7f"),
        request(b"Host: other"),
        request(host=b""),
        request(start=b"POST  /v1/completions HTTP/1.1"),
        request(start=b"POST /v1/completions  HTTP/1.1"),
        request(start=b"POST /v1/a b HTTP/1.1"),
        request(start=b"POST /v1/\x00 HTTP/1.1"),
        request(start=b"post /v1/completions HTTP/1.1"),
        request(start=b"POST /v1/completions HTTP/1.12"),
        request(start=b"POST /v1/completions http/1.1"),
        request(start=b"POST /v1/completions"),
        request(start=b"POST v1/completions HTTP/1.1"),
        request(start=b"POST http://other/v1 HTTP/1.1"),
        request(start=b"CONNECT mesh:1 HTTP/1.1"),
        request(start=b"PRI * HTTP/2.0"),
        request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0"),
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ],
)
def test_a_malformed_request_head_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_request_head(data)
    assert caught.value.status_hint in (400, 405, 501, 505)


def test_a_length_may_have_so_many_digits_and_no_more() -> None:
    digits = b"0" * (HTTP1_CONTENT_LENGTH_DIGITS_MAX - 1) + b"7"
    assert parse_request_head(request(b"Content-Length: " + digits)).framing == 7
    with pytest.raises(AmbiguousFraming):
        parse_request_head(request(b"Content-Length: 0" + digits))


def test_an_absolute_target_that_agrees_with_host_becomes_a_path() -> None:
    assert parse_request_head(request(start=b"GET http://MESH/v1/models?a=1 HTTP/1.1")).target == b"/v1/models?a=1"


def test_the_last_allowed_header_passes_and_the_next_one_does_not() -> None:
    lines = [b"x: y"] * (HTTP1_HEADERS_MAX - 1)
    assert len(parse_request_head(request(*lines)).fields) == HTTP1_HEADERS_MAX
    with pytest.raises(RemoteProtocolError) as caught:
        parse_request_head(request(*lines, b"x: y"))
    assert caught.value.status_hint == 431


def test_the_longest_allowed_target_passes_and_a_longer_one_does_not() -> None:
    target = b"/" + b"a" * (HTTP1_TARGET_BYTES_MAX - 1)
    assert parse_request_head(request(start=b"GET " + target + b" HTTP/1.1")).target == target
    with pytest.raises(RemoteProtocolError) as caught:
        parse_request_head(request(start=b"GET " + target + b"a HTTP/1.1"))
    assert caught.value.status_hint == 414


@pytest.mark.parametrize(
    ("start", "lines", "keeps"),
    [
        (b"GET / HTTP/1.1", (), True),
        (b"GET / HTTP/1.1", (b"Connection: close",), False),
        (b"GET / HTTP/1.1", (b"Connection: Foo, CLOSE",), False),
        (b"GET / HTTP/1.0", (), False),
        (b"GET / HTTP/1.0", (b"Connection: keep-alive",), True),
    ],
)
def test_a_connection_lives_on_by_version_and_option(start: bytes, lines: tuple[bytes, ...], *, keeps: bool) -> None:
    assert parse_request_head(request(*lines, start=start)).keep_alive is keeps


def test_an_upgrade_is_an_offer_that_need_not_be_taken() -> None:
    head = parse_request_head(request(b"Upgrade: websocket", b"Connection: upgrade"))
    assert head.value(b"upgrade") == b"websocket"


# --- where a head ends ---


def test_the_end_of_a_head_is_just_past_its_empty_line() -> None:
    data = request() + b"body"
    assert data[head_end(data) :] == b"body"
    assert head_end(data[:-6]) == -1


def test_a_line_without_cr_is_refused_before_the_head_is_whole() -> None:
    for data in (b"GET / HTTP/1.1\nHost: a", b"\nGET / HTTP/1.1\r\n"):
        with pytest.raises(RemoteProtocolError):
            head_end(data)


def test_a_head_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    frame = b"GET / HTTP/1.1\r\nhost: a\r\nx: \r\n\r\n"
    largest = frame.replace(b"x: ", b"x: " + b"y" * (HTTP1_HEAD_BYTES_MAX - len(frame)))
    assert head_end(largest) == HTTP1_HEAD_BYTES_MAX
    for data in (largest.replace(b"x: ", b"x: y"), b"GET / HTTP/1.1\r\n" + b"y" * HTTP1_HEAD_BYTES_MAX):
        with pytest.raises(RemoteProtocolError) as caught:
            head_end(data)
        assert caught.value.status_hint == 431


# --- responses ---


@pytest.mark.parametrize(
    ("data", "method", "framing"),
    [
        (response(b"Content-Length: 7"), b"POST", 7),
        (response(b"Transfer-Encoding: chunked"), b"POST", CHUNKED),
        (response(), b"POST", UNTIL_CLOSE),
        (response(b"Content-Length: 7"), b"HEAD", 0),
        (response(start=b"HTTP/1.1 204 No Content"), b"POST", 0),
        (response(b"Content-Length: 7", start=b"HTTP/1.1 304 Not Modified"), b"GET", 0),
        (response(start=b"HTTP/1.1 103 Early Hints"), b"POST", 0),
    ],
)
def test_the_framing_of_a_response_follows_rfc_9112_section_6_3(data: bytes, method: bytes, framing: int) -> None:
    assert parse_response_head(data, request_method=method).framing == framing


@pytest.mark.parametrize(
    "data",
    [
        response(b"Content-Length: 7", b"Content-Length: 7"),
        response(b"Content-Length: 7", b"Transfer-Encoding: chunked"),
        response(b"Transfer-Encoding: gzip"),
        response(b"Transfer-Encoding: chunked", start=b"HTTP/1.0 200 OK"),
        response(b"X: a\x00"),
        response(start=b"HTTP/1.1 999 Odd"),
        response(start=b"HTTP/2.0 200 OK"),
        response(start=b"ICY 200 OK"),
        b"garbage\r\n\r\n",
    ],
)
def test_a_malformed_response_head_is_the_fault_of_the_runtime(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_response_head(data, request_method=b"POST")


def test_a_response_that_ends_with_the_connection_does_not_keep_it() -> None:
    assert not parse_response_head(response(), request_method=b"POST").keep_alive
