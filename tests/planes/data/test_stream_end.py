"""The last words of a broken stream, read by a strict reader of what the client got until then."""

from __future__ import annotations

import pytest

from infermesh.planes.data.stream_end import broken_stream_ending
from wire.http1 import ChunkedBody, ResponseHead, parse_response_head


def head(*lines: bytes) -> ResponseHead:
    return parse_response_head(b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]), request_method=b"POST")


SSE = head(b"content-type: text/event-stream", b"transfer-encoding: chunked")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"9\r\ndata: 1\n\n\r\n",
        b"9\r\ndata: 1\n\n",
        b"20\r\ndata: half",
        b"9\r\ndata: 1\n\n\r\n20\r\n",
    ],
)
def test_whatever_chunk_was_under_way_the_event_follows_and_no_last_chunk(sent: bytes) -> None:
    body, strict = ChunkedBody(), ChunkedBody(keep_payload=True)
    body.feed(sent)
    ending = broken_stream_ending(SSE, body, "gone", http_minor=1)
    strict.feed(sent + ending)
    assert strict.payload is not None
    assert b"".join(strict.payload).endswith(b"\n\n")
    assert b'"code":"stream_broken"' in b"".join(strict.payload)
    assert not strict.done
    assert not strict.in_line
    assert strict.missing_bytes == 0


@pytest.mark.parametrize("sent", [b"9\r\ndata: 1\n\n\r", b"9\r\ndata: 1\n\n\r\n2", b"0\r\n", b"fffff\r\ndata: "])
def test_where_no_event_can_follow_nothing_is_said(sent: bytes) -> None:
    body = ChunkedBody()
    body.feed(sent)
    assert broken_stream_ending(SSE, body, "gone", http_minor=1) == b""


@pytest.mark.parametrize(
    "of",
    [
        head(b"content-type: application/json", b"transfer-encoding: chunked"),
        head(b"content-type: text/event-stream", b"content-length: 100"),
        head(b"content-type: text/event-stream", b"content-encoding: gzip", b"transfer-encoding: chunked"),
    ],
)
@pytest.mark.parametrize("http_minor", [0, 1])
def test_a_body_that_is_no_readable_event_stream_gets_none(of: ResponseHead, http_minor: int) -> None:
    assert broken_stream_ending(of, ChunkedBody(), "gone", http_minor=http_minor) == b""
