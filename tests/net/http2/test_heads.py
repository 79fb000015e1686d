from __future__ import annotations

import pytest

from infermesh.net.http2.heads import request_head, response_head
from wire.http1 import CHUNKED, Field

GET: list[Field] = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.test"), (b":path", b"/x?y")]


def test_a_request_is_written_as_http1_would_have_it() -> None:
    head, protocol = request_head([*GET, (b"accept", b"*/*"), (b"te", b"trailers")], end_stream=True)
    assert (head.method, head.target, head.path, head.host, head.framing) == (b"GET", b"/x?y", b"/x", b"a.test", 0)
    assert head.fields == [(b"host", b"a.test"), (b"accept", b"*/*"), (b"te", b"trailers")]
    assert head.lines == []
    assert (head.keep_alive, head.minor, protocol) == (True, 1, b"")


def test_a_host_that_is_there_is_not_written_twice() -> None:
    head, _ = request_head([*GET, (b"host", b"a.test")], end_stream=True)
    assert (head.fields, head.host) == ([(b"host", b"a.test")], b"a.test")


@pytest.mark.parametrize(
    ("fields", "end", "framing"),
    [
        ([], True, 0),
        ([], False, CHUNKED),
        ([(b"content-length", b"7")], False, 7),
        ([(b"content-length", b"0")], True, 0),
    ],
)
def test_the_framing_of_a_request_is_its_length_where_one_is_known(
    fields: list[Field], framing: int, *, end: bool
) -> None:
    assert request_head([*GET, *fields], end_stream=end)[0].framing == framing


def test_an_expectation_is_found() -> None:
    assert request_head([*GET, (b"expect", b"100-continue")], end_stream=False)[0].expect == b"100-continue"


def test_an_extended_connect_tells_its_protocol() -> None:
    fields: list[Field] = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]
    head, protocol = request_head(fields, end_stream=False)
    assert (head.method, head.target, protocol) == (b"CONNECT", b"/x?y", b"websocket")


def test_a_plain_connect_has_its_authority_for_a_target() -> None:
    head, _ = request_head([(b":method", b"CONNECT"), (b":authority", b"a.test:1")], end_stream=False)
    assert head.target == b"a.test:1"


@pytest.mark.parametrize(
    ("status", "method", "fields", "end", "framing"),
    [
        (b"200", b"GET", [], False, CHUNKED),
        (b"200", b"GET", [(b"content-length", b"5")], False, 5),
        (b"200", b"GET", [(b"content-length", b"0")], True, 0),
        (b"200", b"HEAD", [(b"content-length", b"5")], True, 0),
        (b"204", b"GET", [], True, 0),
        (b"304", b"GET", [(b"content-length", b"5")], True, 0),
        (b"103", b"GET", [], False, 0),
    ],
)
def test_the_framing_of_a_response(
    status: bytes, method: bytes, fields: list[Field], framing: int, *, end: bool
) -> None:
    head = response_head([(b":status", status), *fields], method=method, end_stream=end)
    assert (head.status, head.framing, head.fields) == (int(status), framing, fields)


def test_a_response_gets_the_reason_that_http1_wants() -> None:
    assert response_head([(b":status", b"404")], method=b"GET", end_stream=True).reason == b"Not Found"
