"""The heads that a hop writes, and the load that it puts on them."""

from __future__ import annotations

import pytest

from infermesh.core.model.state import LoadHint
from infermesh.planes.data.heads import (
    client_fields,
    client_response,
    client_trailers,
    encode_load,
    interim_response,
    parse_load,
    upstream_fields,
    upstream_request,
)
from wire.http1 import parse_request_head, parse_response_head


def sent_on(*lines: bytes, version: bytes = b"HTTP/1.1") -> list[bytes]:
    start = b"POST /v1/completions " + version
    head = parse_request_head(b"\r\n".join([start, *lines, b"", b""]))
    return upstream_request(head, b"{}", [b"x-added: 1"]).split(b"\r\n")[1:-2]


def answered(status: bytes, *lines: bytes) -> list[bytes]:
    head = parse_response_head(b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"", b""]), request_method=b"POST")
    return client_response(head, [], http_minor=1, keep_alive=True).split(b"\r\n")[1:-2]


def test_a_request_is_framed_by_its_length_and_named_by_its_host() -> None:
    lines = [b"Host: mesh", b"Transfer-Encoding: chunked"]
    assert sent_on(*lines) == [b"Host: mesh", b"x-added: 1", b"content-length: 2"]


def test_a_request_of_http_1_0_without_a_host_gets_an_empty_one() -> None:
    assert sent_on(version=b"HTTP/1.0") == [b"x-added: 1", b"host: ", b"content-length: 2"]


OURS = [b"x-infermesh-replica", b"x-infermesh-model", b"x-infermesh-load", b"X-Infermesh-Attempts", b"X-INFERMESH-NEW"]


@pytest.mark.parametrize("name", [*OURS, b"Forwarded", b"X-Forwarded-For", b"X-Forwarded-Host"])
def test_what_only_a_hop_may_say_does_not_pass_from_a_client(name: bytes) -> None:
    assert sent_on(b"host: mesh", name + b": 3") == [b"host: mesh", b"x-added: 1", b"content-length: 2"]


@pytest.mark.parametrize("name", OURS)
def test_what_is_ours_to_say_does_not_pass_from_a_runtime(name: bytes) -> None:
    assert answered(b"200 OK", b"Via: x", name + b": 3", b"content-length: 0") == [b"Via: x", b"content-length: 0"]


@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"503 Service Unavailable"])
def test_an_answer_to_come_back_says_when(status: bytes) -> None:
    assert b"retry-after: 1" in answered(status, b"content-length: 0")
    assert answered(status, b"content-length: 0", b"Retry-After: 7").count(b"retry-after: 1") == 0


def test_an_interim_answer_loses_what_is_of_its_hop_and_what_would_frame_a_body() -> None:
    lines = [b"Link: </x>", b"Content-Length: 5", b"Connection: x-a", b"X-A: 1", b"x-infermesh-load: i=1"]
    head = parse_response_head(b"\r\n".join([b"HTTP/1.1 103 Early Hints", *lines, b"", b""]), request_method=b"POST")
    assert interim_response(head) == b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


def test_a_call_goes_on_with_its_pseudo_fields_first_and_without_what_is_of_its_hop() -> None:
    lines = [
        b"Host: mesh:8080",
        b"content-type: application/grpc+proto",
        b"te: trailers",
        b"grpc-timeout: 5S",
        b"grpc-encoding: gzip",
        b"x-own-bin: AAE=",
        b"x-infermesh-tenant: acme",
        b"x-infermesh-made-up: 1",
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"x-forwarded-for: 10.0.0.1",
        b"content-length: 5",
        b"authorization: Bearer x",
    ]
    head = parse_request_head(b"\r\n".join([b"POST /a.B/C HTTP/1.1", *lines, b"", b""]))
    assert upstream_fields(head, [b"x-infermesh-model: m", b"via: 1.1 edge"]) == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/a.B/C"),
        (b":authority", b"mesh:8080"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc+proto"),
        (b"grpc-encoding", b"gzip"),
        (b"x-own-bin", b"AAE="),
        (b"authorization", b"Bearer x"),
        (b"x-infermesh-model", b"m"),
        (b"via", b"1.1 edge"),
    ]


def test_a_call_without_an_authority_gets_one() -> None:
    head = parse_request_head(b"POST /a.B/C HTTP/1.0\r\ncontent-type: application/grpc\r\n\r\n")
    assert dict(upstream_fields(head, []))[b":authority"] == b"localhost"


def test_the_end_of_a_call_has_no_field_of_ours() -> None:
    trailers = [(b"grpc-status", b"0"), (b"x-infermesh-load", b"i=1"), (b"x-own", b"1")]
    assert client_trailers(trailers) == [(b"grpc-status", b"0"), (b"x-own", b"1")]


def test_an_answer_over_http2_has_no_word_on_framing_or_its_hop() -> None:
    lines = [b"Connection: x-hop", b"X-Hop: 1", b"Transfer-Encoding: chunked", b"X-Infermesh-Load: i=1", b"X-Own: 1"]
    head = parse_response_head(b"\r\n".join([b"HTTP/1.1 503 Busy", *lines, b"", b""]), request_method=b"POST")
    assert client_fields(head, [b"x-infermesh-node: a"]) == [
        (b"x-own", b"1"),
        (b"x-infermesh-node", b"a"),
        (b"retry-after", b"1"),
    ]


def test_a_load_comes_back_as_it_was_written() -> None:
    hint = LoadHint(incarnation=1_700_000_000_000, queue_len=3, running=250, kv_usage=0.25)
    assert parse_load(encode_load(hint)) == hint


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"i=1;q=1;r=1",
        b"i=1;q=-1;r=1;k=0.5",
        b"i=1;q=1;r=1;k=nan",
        b"i=1;q=1;r=1;k=1.5",
        b"i=1;q=1" + b"0" * 400 + b";r=1;k=0.5",
        b"i=1;q=1;r=1" + b"0" * 400 + b";k=0.5",
        b"i=1" + b"0" * 400 + b";q=1;r=1;k=0.5",
        b"i=-1;q=1;r=1;k=0.5",
        b"i=1;q=1;r=x;k=0.5",
    ],
)
def test_a_load_that_cannot_be_true_is_no_hint(value: bytes) -> None:
    assert parse_load(value) is None
