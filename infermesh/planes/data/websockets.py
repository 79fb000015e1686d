"""Inference WebSockets of a client port: who may open one, how many there are, and their end when the node stops.

`upgrade` answers an HTTP/1.1 request that wants one, `connect` a CONNECT over HTTP/2 (RFC 8441). Both take the paths of
OpenAI's that stream. A request that asks for something else is refused in HTTP; one that may not have its WebSocket
because of what this node is at (too many of them, about to stop) gets it, and a close frame that says why: browsers
show a page a close code, and nothing of a refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from infermesh.net.asker import Asker, Request
from infermesh.net.http1 import ServerConnection
from infermesh.net.http2 import Http2ServerStream, StreamReader
from infermesh.net.timers import Timers
from infermesh.net.websocket import (
    REFUSED,
    WebSocket,
    WebSocketConfig,
    WebSocketReader,
    open_websocket,
    open_websocket_stream,
)
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.serving import send_refusal
from infermesh.planes.data.websocket_session import InferenceSession, RequestTaker
from wire.http1 import RequestHead
from wire.websocket import (
    CloseCode,
    HandshakeRefused,
    Opening,
    check_connect,
    check_upgrade,
    is_same_origin,
    wants_websocket,
)

PATHS: Final = frozenset({b"/v1/chat/completions", b"/v1/completions"})
SUBPROTOCOL: Final = b"infermesh.v1"
_SOCKET: Final = WebSocketConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketRules:
    """`origins`: pages of other hosts that may open one, as browsers write them; "*": any page may."""

    connections_max: int = 4096
    origins: frozenset[str] = frozenset()
    socket: WebSocketConfig = _SOCKET


class WebSockets:
    def __init__(
        self, frontend: RequestTaker, rules: WebSocketRules, timers: Timers, count_fault: Callable[[str], None]
    ) -> None:
        self._frontend = frontend
        self._rules = rules
        self._timers = timers
        self._count_fault = count_fault
        self._open: dict[InferenceSession, None] = {}  # In the order of their opening.
        self._stopping = False

    def __len__(self) -> int:
        return len(self._open)

    def stop(self) -> None:
        """The node stops: those that idle are closed, those with a request once that has ended."""
        self._stopping = True
        for session in list(self._open):
            session.stop()

    def upgrade(self, connection: ServerConnection, request: Request) -> bool:
        """Whether the request wanted a WebSocket on a path that has one; then it was opened or refused."""
        head = request.head
        if head.method != b"GET" or head.path not in PATHS or not wants_websocket(head.fields):
            return False
        try:
            opening = check_upgrade(head.method, head.minor, head.fields)
            self._check_origin(opening, head.host)
        except HandshakeRefused as refused:
            self._refuse(connection, refused, head.method)
            return True
        opened = open_websocket(
            connection,
            opening,
            self._rules.socket,
            reader=partial(self._reader, head),
            subprotocol=opening.choose((SUBPROTOCOL,)),
            count_fault=self._count_fault,
        )
        self._admit(opened)
        return True

    def connect(self, stream: Http2ServerStream) -> StreamReader:
        """The reader of a stream that was opened by an extended CONNECT; the stream is answered."""
        head = stream.head
        try:
            opening = check_connect(stream.protocol, head.fields)
            if head.path not in PATHS:
                known = ", ".join(sorted(path.decode() for path in PATHS))
                raise HandshakeRefused(
                    f"no WebSocket is served at {head.path[:80].decode('latin-1')}; known paths: {known}", 404
                )
            self._check_origin(opening, head.host)
        except HandshakeRefused as refused:
            self._refuse(stream, refused, head.method)
            return REFUSED
        opened = open_websocket_stream(
            stream,
            opening,
            self._rules.socket,
            reader=partial(self._reader, head),
            subprotocol=opening.choose((SUBPROTOCOL,)),
            count_fault=self._count_fault,
        )
        self._admit(opened.socket)
        return opened

    def _check_origin(self, opening: Opening, host: bytes) -> None:
        """Browsers let any page open a WebSocket to anywhere, and say which page it was (RFC 6455 section 10.2)."""
        origin, allowed = opening.origin, self._rules.origins
        if origin is None or "*" in allowed or is_same_origin(origin, host):
            return
        if origin.decode("latin-1").lower() not in allowed:
            text = f"a page of {origin[:80].decode('latin-1')} may not use this node (websocket.origins)"
            raise HandshakeRefused(text, 403)

    def _refuse(self, asker: Asker, refused: HandshakeRefused, method: bytes) -> None:
        self._count_fault("websocket_handshake")
        answer = RequestRefused(refused.status_hint, "websocket_handshake", str(refused))
        send_refusal(asker, answer, method, refused.fields)

    def _reader(self, head: RequestHead, socket: WebSocket) -> WebSocketReader:
        session = InferenceSession(socket, head, self._frontend, self._timers, self._forget)
        self._open[session] = None
        return session

    def _admit(self, socket: WebSocket) -> None:
        if self._stopping:
            socket.close(CloseCode.GOING_AWAY, "this node stops")
        elif len(self._open) > self._rules.connections_max:
            socket.close(CloseCode.TRY_AGAIN_LATER, "this node has as many WebSockets as it may")

    def _forget(self, session: InferenceSession) -> None:
        self._open.pop(session, None)
