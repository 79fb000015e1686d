"""What is behind HTTP/2 on the two ports of the data plane: which streams are gRPC, WebSockets or plain requests.

A gRPC call is taken at its head, since its messages may come for as long as it lasts; the node's own services come
first, whatever they do not know passes on. Everything else is collected and answered as over HTTP/1.1.
"""

from __future__ import annotations

from typing import Protocol

from infermesh.core.trust import PeerIdentity
from infermesh.net.asker import Asker, Request, SlowCall
from infermesh.net.http1 import Refusal
from infermesh.net.http2 import Http2ServerStream, StreamReader
from infermesh.planes.data.deaf import Deaf
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.grpc_writer import GRPC
from infermesh.planes.data.serving import send_refusal
from infermesh.planes.data.writer import AnswerWriter
from wire.grpc import is_grpc


class HttpAnswer(Protocol):
    def __call__(self, asker: Asker, request: Request, writer: AnswerWriter) -> SlowCall | None:
        """Answer a whole request. Raises RequestRefused."""


class Calls(Protocol):
    def open(self, stream: Http2ServerStream) -> StreamReader:
        """Take, or refuse, a call of any service."""


class OwnServices(Protocol):
    def open_stream(self, stream: Http2ServerStream) -> StreamReader | None:
        """Take a call of a service of this node; None: it knows no such service."""


class Sockets(Protocol):
    def connect(self, stream: Http2ServerStream) -> StreamReader:
        """Open a WebSocket over an extended CONNECT, or refuse it."""


class PortStreams:
    """The `StreamService` of one port, or of one connection where it matters who the peer is."""

    __slots__ = ("_answer", "_calls", "_services", "_sockets", "_writer", "peer")

    def __init__(
        self,
        answer: HttpAnswer,
        writer: AnswerWriter,
        *,
        calls: Calls | None,
        services: OwnServices | None,
        sockets: Sockets | None = None,
        peer: PeerIdentity | None = None,
    ) -> None:
        self._answer = answer
        self._writer = writer
        self._calls = calls
        self._services = services
        self._sockets = sockets
        self.peer = peer

    def answer(self, stream: Http2ServerStream, request: Request) -> SlowCall | None:
        try:
            return self._answer(stream, request, self._writer)
        except RequestRefused as refused:
            send_refusal(stream, refused, request.head.method)
            return None

    def open_stream(self, stream: Http2ServerStream) -> StreamReader | None:
        head = stream.head
        if is_grpc(head.value(b"content-type")):
            reader = self._services.open_stream(stream) if self._services is not None else None
            if reader is None and self._calls is not None:
                reader = self._calls.open(stream)
            return reader
        if head.method != b"CONNECT":
            return None
        if stream.protocol and self._sockets is not None:
            return self._sockets.connect(stream)
        what = f"CONNECT with protocol {stream.protocol[:40].decode('latin-1')!r}" if stream.protocol else "CONNECT"
        send_refusal(stream, RequestRefused(501, "not_implemented", f"{what} is not served here"), b"CONNECT")
        return Deaf(stream)


def refuse_stream(stream: Http2ServerStream, refusal: Refusal) -> None:
    """The answer to what never became a request, in its asker's words."""
    retry_after_s = 1.0 if refusal.status == 503 else None
    refused = RequestRefused(refusal.status, refusal.reason, refusal.message, retry_after_s=retry_after_s)
    if is_grpc(stream.head.value(b"content-type")):
        GRPC.refuse(stream, refused, b"POST")
    else:
        send_refusal(stream, refused, stream.head.method)
