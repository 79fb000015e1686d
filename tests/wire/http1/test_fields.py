from __future__ import annotations

from wire.http1 import (
    Field,
    encode_relayed_head,
    encode_request_head,
    encode_response_head,
    forwardable,
)
from wire.http1.fields import connection_options


def passed_on(fields: list[Field]) -> list[bytes]:
    return forwardable(fields, [name.title() + b": " + value for name, value in fields])


def test_fields_of_one_connection_go_no_further_and_the_others_pass_as_they_came() -> None:
    fields = [
        (b"host", b"a"),
        (b"connection", b"close, X-Secret"),
        (b"x-secret", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"te", b"trailers"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"proxy-authorization", b"x"),
        (b"content-length", b"5"),
        (b"accept", b"*/*"),
    ]
    assert passed_on(fields) == [b"Host: a", b"Accept: */*"]


def test_connection_cannot_take_away_host_or_credentials() -> None:
    fields = [(b"host", b"a"), (b"authorization", b"x"), (b"connection", b"host, authorization, content-length")]
    assert passed_on(fields) == [b"Host: a", b"Authorization: x"]


def test_options_of_several_connection_fields_are_joined() -> None:
    assert connection_options([b"Close", b" a ,B"]) == {b"close", b"a", b"b"}


def test_heads_are_written_with_one_empty_line() -> None:
    assert encode_request_head(b"GET", b"/", [b"host: a"]) == b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    assert encode_response_head(200, b"OK", []) == b"HTTP/1.1 200 OK\r\n\r\n"
    assert encode_relayed_head(103, b"Early Hints", []) == b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert encode_relayed_head(200, b"OK", [b"a: b"]) == b"HTTP/1.1 200 OK\r\na: b\r\n\r\n"
