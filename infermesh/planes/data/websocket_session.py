"""What is said on one inference WebSocket: requests in, one at a time, and what else a client may say.

Requests go the way of every request, `Frontend.answer`, with a head made of the one that opened the WebSocket and the
message as their body. Not here: answers (`websocket_turn`), and who may open one (`websockets`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from infermesh.net.asker import Asker, Request
from infermesh.net.timers import Timers
from infermesh.net.websocket import WebSocket
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.websocket_messages import error_message, kind_of, request_body, request_head
from infermesh.planes.data.websocket_turn import WEBSOCKET, WebSocketTurn
from infermesh.planes.data.writer import AnswerWriter
from wire.http1 import RequestHead
from wire.websocket import CloseCode


class RequestTaker(Protocol):
    """Where requests go: the frontend."""

    def answer(self, asker: Asker, request: Request, writer: AnswerWriter) -> None: ...


class InferenceSession:
    """The reader of one WebSocket."""

    __slots__ = ("_frontend", "_on_end", "_opening", "_socket", "_stopping", "_timers", "_turn")

    def __init__(
        self,
        socket: WebSocket,
        opening: RequestHead,
        frontend: RequestTaker,
        timers: Timers,
        on_end: Callable[[InferenceSession], None],
    ) -> None:
        """`opening`: the head that opened the WebSocket; its fields hold for each request on it."""
        self._socket = socket
        self._opening = opening
        self._frontend = frontend
        self._timers = timers
        self._on_end = on_end
        self._turn: WebSocketTurn | None = None
        self._stopping = False

    @property
    def busy(self) -> bool:
        return self._turn is not None

    def stop(self) -> None:
        """The node stops: close now, or once the request under way has its last message."""
        self._stopping = True
        if self._turn is None:
            self._socket.close(CloseCode.GOING_AWAY, "this node stops")

    # --- as a reader ---

    def on_message(self, data: bytes, *, text: bool) -> None:
        if not text:
            self._socket.close(CloseCode.UNSUPPORTED, "requests are JSON in text messages")
            return
        kind = kind_of(data)
        if kind == "cancel":
            # With nothing under way it has crossed the last message of what it was to cancel.
            if self._turn is not None:
                self._turn.cancel()
        elif kind is not None:
            text_ = f"no message has the type {kind[:40]!r}; send a request without 'type', or a cancel"
            self._refuse(RequestRefused(400, "unknown_type", text_, param="type"))
        elif self._turn is not None:
            text_ = "a request is under way on this WebSocket; wait for its last message, cancel it, or open another"
            self._refuse(RequestRefused(409, "request_under_way", text_))
        else:
            self._begin(data)

    def on_closing(self, code: int, reason: str) -> None:
        turn, self._turn = self._turn, None
        self._on_end(self)
        if turn is not None:
            turn.gone()

    # --- inside ---

    def _begin(self, message: bytes) -> None:
        turn = self._turn = WebSocketTurn(self._socket, self._end_turn)
        try:
            body = request_body(message)
            head = request_head(self._opening, len(body))
            self._frontend.answer(turn, Request(head, body, self._timers.now()), WEBSOCKET)
        except RequestRefused as refused:
            turn.fail(refused)

    def _end_turn(self, turn: WebSocketTurn) -> None:
        if self._turn is turn:
            self._turn = None
        if self._stopping or not turn.keep_alive:
            self._socket.close(CloseCode.GOING_AWAY, "this node stops")

    def _refuse(self, refused: RequestRefused) -> None:
        """About a message that became no request."""
        self._socket.send_text(error_message(refused, "", final=False))
