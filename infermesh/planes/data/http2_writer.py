"""Answers to askers over HTTP/2 from upstreams over HTTP/1.1: the head is written anew, the body's framing is dropped.

A body ends with its stream, so there is nothing to keep of how a runtime framed it. A stream that breaks off ends with
an error event where it is a stream of events, and with RST_STREAM in any case: a client must be able to tell it from a
whole answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from infermesh.net.asker import Asker
from infermesh.net.http1 import UpstreamConnection
from infermesh.net.http2 import Http2ServerStream
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.heads import client_fields
from infermesh.planes.data.run import Run
from infermesh.planes.data.serving import send_refusal
from infermesh.planes.data.stream_end import broken_stream_event, is_event_stream
from infermesh.planes.data.upstream import Upstream
from wire.http1 import Field, ResponseHead
from wire.http2.frames import ErrorCode


class Http2Writer:
    __slots__ = ("_last_words",)
    protocol: Final = "http/2"

    def __init__(self, *, last_words: bool = True) -> None:
        """`last_words`: as `Http1Writer`'s."""
        self._last_words = last_words

    def status_of(self, up: Upstream, head: ResponseHead) -> int:
        return head.status

    def interim(self, asker: Asker, head: ResponseHead) -> None:
        _stream(asker).send_head([(b":status", b"%d" % head.status), *client_fields(head, [])])

    def begin(self, run: Run, up: Upstream, head: ResponseHead, lines: list[bytes]) -> None:
        fields = client_fields(head, lines)
        if head.framing >= 0 and head.status not in (204, 304):
            fields.append((b"content-length", b"%d" % head.framing))
        stream = _stream(run.asker)
        stream.send_head([(b":status", b"%d" % head.status), *fields], end=head.framing == 0)
        if not run.ended:  # The client may be gone at the first word.
            up.read_body()

    def payload(self, run: Run, up: Upstream, payload: bytes) -> None:
        assert isinstance(up, UpstreamConnection)
        _stream(run.asker).write_from(payload, up)

    def end(self, run: Run, up: Upstream) -> None:
        pass  # `finish` ends the stream with what is queued.

    def break_off(self, run: Run, up: Upstream, head: ResponseHead) -> None:
        stream = _stream(run.asker)
        if self._last_words and is_event_stream(head):
            stream.break_off(broken_stream_event(run.failure))
        else:
            stream.work = None  # The run is ending by itself.
            stream.reset(ErrorCode.INTERNAL_ERROR)

    def refuse(self, asker: Asker, refused: RequestRefused, method: bytes, fields: Sequence[Field] = ()) -> None:
        send_refusal(asker, refused, method, fields)


HTTP2: Final = Http2Writer()
HTTP2_HOP: Final = Http2Writer(last_words=False)


def _stream(asker: Asker) -> Http2ServerStream:
    assert isinstance(asker, Http2ServerStream)
    return asker
