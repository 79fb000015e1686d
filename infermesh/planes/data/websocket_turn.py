"""One request on a WebSocket, and its answer as messages: the asker and the writer of `net.asker` and `data.writer`.

A turn ends with exactly one last message, done or error, unless the WebSocket goes first. A runtime's stream is taken
apart into its events, each of which is one message; an answer that is no stream is collected, bounded, and is one.

Duties of the session: one turn at a time, and `cancel` or `gone` for one that does not end by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from infermesh.net.asker import Asker, SlowCall, Work
from infermesh.net.http1 import UpstreamConnection
from infermesh.net.websocket import WebSocket
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.run import Run
from infermesh.planes.data.stream_end import is_event_stream
from infermesh.planes.data.upstream import Upstream
from infermesh.planes.data.websocket_messages import done_message, error_message, relayed_error_message
from wire.errors import RemoteProtocolError
from wire.http1 import Field, ResponseHead
from wire.sse import EventSplitter
from wire.websocket import CloseCode

_DONE: Final = b"[DONE]"
# An answer that is no stream: an error, or one of a runtime that does not stream. Longer ones are broken off.
_COLLECTED_BYTES_MAX: Final = 1 << 20


class WebSocketTurn:
    """The asker of one request."""

    __slots__ = (
        "_node",
        "_on_end",
        "_request_id",
        "_socket",
        "attempts",
        "collected",
        "ended",
        "events",
        "keep_alive",
        "status",
        "work",
    )

    def __init__(self, socket: WebSocket, on_end: Callable[[WebSocketTurn], None]) -> None:
        self._socket = socket
        self._on_end = on_end
        self._request_id = ""
        self._node = ""
        self.attempts = 0
        self.keep_alive = True
        self.work: Work | None = None
        self.ended = False
        self.status = 0  # Of the answer under way; 0: none has begun.
        self.events: EventSplitter | None = None  # While a stream is taken apart.
        self.collected: bytearray | None = None  # While an answer that is none is collected.

    # --- as an asker ---

    @property
    def closed(self) -> bool:
        return self.ended or self._socket.closed

    def hand_over(self, call: SlowCall) -> None:
        self._socket.hand_over(call)

    def respond(self, status: int, fields: Sequence[Field], body: bytes = b"", *, method: bytes = b"GET") -> None:
        """A whole answer: an error, in HTTP's words."""
        self._end(relayed_error_message(status, body, self._request_id, self.attempts))

    def finish(self) -> None:
        self._end(done_message(self._request_id, self._node, self.attempts, cancelled=False))

    def lose(self, why: str) -> None:
        self._socket.close(CloseCode.INTERNAL, why)

    # --- as the session sees it ---

    def cancel(self) -> None:
        """The client wants no more of this answer. Everything behind it ends, down to the runtime."""
        self._stop_work()
        self._end(done_message(self._request_id, self._node, self.attempts, cancelled=True))

    def gone(self) -> None:
        """Nobody is left to answer."""
        self.ended = True
        self._stop_work()

    # --- as the writer sees it ---

    def begin(self, run: Run, status: int, lines: Sequence[bytes]) -> None:
        winner = run.winner
        assert winner is not None
        self.status = status
        self._node = winner.destination.node
        self.attempts = len(run.attempts)
        prefix = b"x-infermesh-request-id: "
        self._request_id = next((line[len(prefix) :].decode() for line in lines if line.startswith(prefix)), "")

    def say(self, messages: Sequence[bytes], source: UpstreamConnection) -> None:
        if not self.ended:
            self._socket.send_texts([_as_utf8(message) for message in messages], source)

    def fail(self, refused: RequestRefused, fields: Sequence[Field] = ()) -> None:
        for name, value in fields:
            if name == b"x-infermesh-request-id":
                self._request_id = value.decode()
            elif name == b"x-infermesh-attempts":
                self.attempts = int(value)
        self._end(error_message(refused, self._request_id, self.attempts))

    def end_collected(self, collected: bytes) -> None:
        """The end of an answer that was no stream."""
        if self.status >= 400:
            self._end(relayed_error_message(self.status, collected, self._request_id, self.attempts))
        elif collected and not self.ended:
            self._socket.send_texts([_as_utf8(collected)])

    def _end(self, message: bytes) -> None:
        """Say the last word, once."""
        if self.ended:
            return
        self.ended = True
        self._socket.send_text(message)
        self._on_end(self)

    def _stop_work(self) -> None:
        work, self.work = self.work, None
        if work is not None:
            work.on_connection_lost()


class WebSocketWriter:
    """Writes a run's answer to a `WebSocketTurn`."""

    __slots__ = ()
    protocol: Final = "websocket"

    def status_of(self, up: Upstream, head: ResponseHead) -> int:
        return head.status

    def interim(self, asker: Asker, head: ResponseHead) -> None:
        pass  # No message says 103.

    def begin(self, run: Run, up: Upstream, head: ResponseHead, lines: list[bytes]) -> None:
        turn = _turn(run.asker)
        turn.begin(run, head.status, lines)
        if head.status == 200 and is_event_stream(head):
            turn.events = EventSplitter()
        elif head.value(b"content-encoding"):
            up.lose("its answer is coded, and we asked for none")
            return
        else:
            turn.collected = bytearray()
        up.read_body()

    def payload(self, run: Run, up: Upstream, payload: bytes) -> None:
        turn = _turn(run.asker)
        assert isinstance(up, UpstreamConnection)
        if turn.events is not None:
            try:
                messages = turn.events.feed(payload)
            except RemoteProtocolError as error:
                up.lose(str(error))
                return
            turn.say([message for message in messages if message != _DONE], up)
        elif turn.collected is not None:
            turn.collected += payload
            if len(turn.collected) > _COLLECTED_BYTES_MAX:
                up.lose(f"an answer of more than {_COLLECTED_BYTES_MAX} bytes that is no stream")

    def end(self, run: Run, up: Upstream) -> None:
        turn = _turn(run.asker)
        if turn.collected is not None:
            turn.end_collected(bytes(turn.collected))

    def break_off(self, run: Run, up: Upstream, head: ResponseHead) -> None:
        text = f"the stream broke off: {run.failure}; the answer is incomplete, send the request again"
        _turn(run.asker).fail(RequestRefused(502, "stream_broken", text))

    def refuse(self, asker: Asker, refused: RequestRefused, method: bytes, fields: Sequence[Field] = ()) -> None:
        _turn(asker).fail(refused, fields)


WEBSOCKET: Final = WebSocketWriter()


def _turn(asker: Asker) -> WebSocketTurn:
    assert isinstance(asker, WebSocketTurn)
    return asker


def _as_utf8(message: bytes) -> bytes:
    """A runtime's bytes as text. What is none would make the client's library close the WebSocket."""
    if not message.isascii():
        try:
            message.decode()
        except UnicodeDecodeError:
            return message.decode("utf-8", "replace").encode()
    return message
