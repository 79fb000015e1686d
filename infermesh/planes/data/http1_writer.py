"""Answers to askers over HTTP/1.1 from upstreams over HTTP/1.1: relayed as the bytes they are where possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from infermesh.net.asker import Asker
from infermesh.net.http1 import ServerConnection, UpstreamConnection
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.heads import client_response, interim_response, relays_untouched
from infermesh.planes.data.run import Run
from infermesh.planes.data.serving import send_refusal
from infermesh.planes.data.stream_end import broken_stream_ending
from infermesh.planes.data.upstream import Upstream
from wire.http1 import Field, ResponseHead


class Http1Writer:
    __slots__ = ("_last_words",)
    protocol: Final = "http/1.1"

    def __init__(self, *, last_words: bool = True) -> None:
        """`last_words`: a stream that breaks off ends with an error event; where the asker is a client."""
        self._last_words = last_words

    def status_of(self, up: Upstream, head: ResponseHead) -> int:
        return head.status

    def interim(self, asker: Asker, head: ResponseHead) -> None:
        connection = _connection(asker)
        if connection.http_minor:
            connection.write(interim_response(head))

    def begin(self, run: Run, up: Upstream, head: ResponseHead, lines: list[bytes]) -> None:
        connection = _connection(run.asker)
        minor = connection.http_minor
        untouched = relays_untouched(head, minor)
        if not untouched:
            # HTTP/1.0 reads no chunks and HTTP/1.1 should not need the end of the connection to find an end.
            run.rechunk = minor == 1
            connection.keep_alive = connection.keep_alive and run.rechunk
        written = client_response(head, lines, http_minor=minor, keep_alive=connection.keep_alive)
        if untouched:
            assert isinstance(up, UpstreamConnection)
            up.relay_to(connection, written)
        else:
            connection.write(written)
            if not run.ended:  # The client may be gone at the first word.
                up.read_body()

    def payload(self, run: Run, up: Upstream, payload: bytes) -> None:
        assert isinstance(up, UpstreamConnection)
        if run.rechunk:
            payload = b"%x\r\n%b\r\n" % (len(payload), payload)
        _connection(run.asker).write(payload, up)

    def end(self, run: Run, up: Upstream) -> None:
        if run.rechunk:
            _connection(run.asker).write(b"0\r\n\r\n")

    def break_off(self, run: Run, up: Upstream, head: ResponseHead) -> None:
        connection = _connection(run.asker)
        connection.keep_alive = False
        if self._last_words:
            assert isinstance(up, UpstreamConnection)
            minor = connection.http_minor
            connection.write(broken_stream_ending(head, up.body, run.failure, http_minor=minor))

    def refuse(self, asker: Asker, refused: RequestRefused, method: bytes, fields: Sequence[Field] = ()) -> None:
        send_refusal(asker, refused, method, fields)


HTTP1: Final = Http1Writer()
# Where the asker is a router: it adds its own last words, and a client wants them once.
HTTP1_HOP: Final = Http1Writer(last_words=False)


def _connection(asker: Asker) -> ServerConnection:
    assert isinstance(asker, ServerConnection)
    return asker
