"""The serving side of one HTTP/1.1 connection: whole requests in, responses out, one at a time.

A request arrives with its whole body, so that what is behind it can be sent twice (retry, hedge) and framed anew.
`answer` is a plain call: it answers at once, or sets `work` and leaves the rest to callbacks of the reactor, or
returns a coroutine function for what must be waited for, which the connection's one task then runs. So a request
whose way is free costs no task switch, and everything that waits does so in a trio task, under its scope.

Requests that follow on the same connection wait, bounded, until the one before is answered: pipelining is safe, and
responses cannot cross. They also wait until the client has taken that answer, so that whoever asks without reading
fills no memory but its own. What is malformed, oversized or slow is answered by the bytes that `refuse` gives, and the
connection ends. A client that closes, or closes its sending half, is gone: its `work` is told at once and the scope
of its task is cancelled (docs/decisions/0003).

Duties of the caller: one task per connection that runs `serve`; each request is ended by `respond`, or bytes
written by a relay followed by `finish`.
"""

from __future__ import annotations

import enum
import math
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, assert_never

import msgspec
import outcome
import trio

from infermesh.net.asker import Request, SlowCall, Work
from infermesh.net.body_budget import BodyBudget
from infermesh.net.connection import Connection, ConnectionLost
from infermesh.net.reactor import HALF_CLOSED, READ, Reactor
from infermesh.net.timers import Timers
from wire.errors import RemoteProtocolError
from wire.http1 import (
    AmbiguousFraming,
    Field,
    RequestHead,
    body_of,
    encode_response_head,
    head_end,
    parse_request_head,
)
from wire.http1.framing import Body, ChunkedBody
from wire.limits import HTTP1_HEAD_BYTES_MAX

REASONS: Final = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
    508: b"Loop Detected",
}
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_PREFACE_LINE: Final = b"PRI * HTTP/2.0\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LINGER_S: Final = 2.0
_LINGER_BYTES_MAX: Final = 1 << 20
# One whole further request head fits; a body behind it waits in the kernel.
_PIPELINED_BYTES_MAX: Final = 65_536
_REQUESTS_PER_TURN: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one client connection may take. Times in seconds, from the config section of its listener."""

    head_bytes_max: int = HTTP1_HEAD_BYTES_MAX
    body_bytes_max: int = 16 << 20
    head_timeout_s: float = 10.0  # From a head's first byte to its last: a slow head cannot extend it.
    body_timeout_s: float = 30.0  # For a body of no size; each byte received extends it by `1 / body_rate_min`.
    body_rate_min: float = 16_384.0  # Bytes per second below which a body is too slow.
    idle_timeout_s: float = 75.0  # Between requests.
    send_timeout_s: float = 30.0  # Without one byte of output taken by the client.
    bodies: BodyBudget = field(default_factory=BodyBudget)  # Of all connections that share these limits.


class Refusal(msgspec.Struct, frozen=True):
    """Why a request never reached its task. `reason` is the label it is counted under."""

    status: int
    reason: str
    message: str


class Successor(Protocol):
    """Who speaks another protocol on the socket of a `ServerConnection` that has handed it over."""

    async def serve(self) -> None: ...
    def abort(self) -> None: ...


Answer = Callable[["ServerConnection", Request], "SlowCall | None"]
Switch = Callable[["ServerConnection", bytes], Successor]


class _State(enum.IntEnum):
    HEAD = 0  # Waiting for a head, or for the rest of one.
    BODY = 1
    BUSY = 2  # A request is with its task.
    HELD = 3  # Answered; the next one waits until the client has taken the answer, or until its turn comes.
    LINGER = 4  # Answered for the last time; what still comes is thrown away until the client has read it.


class ServerConnection(Connection):
    __slots__ = (
        "_advancing",
        "_answer",
        "_body",
        "_body_bytes",
        "_body_parts",
        "_body_since",
        "_buffer",
        "_calls",
        "_head",
        "_head_begun",
        "_held_bytes",
        "_limits",
        "_on_preface",
        "_payload_bytes",
        "_refuse",
        "_sent_mark",
        "_state",
        "http_minor",
        "keep_alive",
        "requests",
        "scope",
        "successor",
        "work",
    )
    watch = READ | HALF_CLOSED

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        timers: Timers,
        limits: ServerLimits,
        *,
        answer: Answer,
        refuse: Callable[[Refusal], bytes],
        on_preface: Switch | None = None,
    ) -> None:
        """`on_preface`: makes the successor for a client that begins with HTTP/2 at once (RFC 9113 section 3.3)."""
        self._limits = limits
        self._on_preface = on_preface
        self.successor: Successor | None = None
        self._answer = answer
        self._refuse = refuse
        self._calls: deque[SlowCall] = deque()
        self._advancing = False
        self.work: Work | None = None
        self._state = _State.HEAD
        self._buffer = b""
        self._head: RequestHead | None = None
        self._body: Body | None = None
        self._body_parts: list[bytes] = []
        self._body_bytes = 0  # As they came, framing included: what a slow body is measured by.
        self._payload_bytes = 0
        self._body_since = 0.0
        self._head_begun = False
        self._held_bytes = 0  # Of `limits.bodies`.
        self._sent_mark = 0
        self.keep_alive = True
        self.http_minor = 1
        self.requests = 0
        self.scope = trio.CancelScope()
        super().__init__(sock, reactor, timers)
        timers.arm(self, timers.now() + limits.idle_timeout_s)

    # --- the task ---

    async def serve(self) -> None:
        """Run what `hand_over` gives, until the connection is closed. Raises ConnectionLost then.

        After a last answer the connection waits for the client to have read it, so a task lives as long as its
        socket. Returns once the socket is its successor's, which is then to be served.
        """
        while True:
            while self._calls:
                await self._calls.popleft()()
            if self.successor is not None:
                return
            if self.closed:
                raise ConnectionLost("closed")
            await self.park()

    def hand_over(self, call: SlowCall) -> None:
        """Have the connection's task run `call`: something must be waited for."""
        self._calls.append(call)
        self.wake(outcome.Value(None))

    def switch_to(self, make: Switch) -> None:
        """Hand the socket to another protocol. `make` gets the bytes that were read and belong to it, and builds the
        successor with this connection as its `predecessor`."""
        rest, self._buffer = self._buffer, b""
        self._state = _State.BUSY
        self.work = None
        self._free_body()
        self.successor = make(self, rest)
        self.wake(outcome.Value(None))

    # --- answering ---

    def respond(self, status: int, fields: Sequence[Field], body: bytes = b"", *, method: bytes = b"GET") -> None:
        """A whole response with its length; then `finish`."""
        whole = [*fields, (b"content-length", b"%d" % len(body))]
        if not self.keep_alive:
            whole.append((b"connection", b"close"))
        head = encode_response_head(status, REASONS.get(status, b""), whole)
        self.write(head if method == b"HEAD" else head + body)
        self.finish()

    def finish(self) -> None:
        """The response is complete: ready for the next request, or the end of the connection."""
        self.work = None
        if self._held_bytes:
            self._free_body()
        if self.closed:
            return
        if not self.keep_alive:
            self._linger()
        elif self.backlog_len:
            self._state = _State.HELD  # `on_flushed` goes on; until then the time for sending runs.
        else:
            self._await_request()

    def _await_request(self) -> None:
        self._state = _State.HEAD
        self.timers.arm(self, self.timers.now() + self._limits.idle_timeout_s)
        if self._advancing:
            return
        if self._buffer:
            self._advance()
        if self._state is _State.HEAD or len(self._buffer) <= _PIPELINED_BYTES_MAX:
            self.resume()

    # --- reading ---

    def on_bytes(self, data: bytes) -> None:
        if self._state is _State.LINGER:
            if self.bytes_in > _LINGER_BYTES_MAX:
                self.abort()
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._state is _State.HEAD or self._state is _State.BODY:
            self._advance()
        if len(self._buffer) > _PIPELINED_BYTES_MAX and self._state is not _State.HEAD:
            self.pause()

    def on_eof(self) -> None:
        if self._state is _State.LINGER:
            self.abort()
            return
        self.lose("closed by the client")

    def on_lost(self, error: ConnectionLost) -> None:
        if self._state is _State.BODY or (self._state is _State.HEAD and self._head_begun):
            # Closed or reset inside its request. Nobody is left to read an answer; it is counted all the same.
            self._refuse(Refusal(400, "truncated", "the client left inside its request"))
        self.scope.cancel()

    def abort(self, error: ConnectionLost | None = None) -> None:
        if not self.closed:
            super().abort(error)
            self._buffer = b""
            self._body_parts = []
            self._free_body()
            self._calls.clear()
            work, self.work = self.work, None
            if work is not None:
                try:
                    work.on_connection_lost()
                except Exception as error:  # noqa: BLE001 - raised inside trio's own cancellation it ends the process.
                    self.reactor.report(error)

    def _advance(self) -> None:
        """Read requests out of the buffer until one is under way, or nothing whole is left."""
        self._advancing = True
        try:
            for _ in range(_REQUESTS_PER_TURN):
                if self._state is _State.HEAD and not (self._buffer and self._read_head()):
                    return
                if self._state is _State.BODY:
                    self._read_body()
                if self._state is not _State.HEAD:
                    return
            # A client that pipelines cheap requests must not hold up everybody else.
            self._state = _State.HELD
            self.hand_over(self._advance_later)
        except RemoteProtocolError as error:
            refusal = Refusal(error.status_hint, _reason_of(error), str(error))
            if self._is_foreign():
                self._refuse(refusal)
                self._linger()
            else:
                self.refuse(refusal)
        finally:
            self._advancing = False

    def _is_foreign(self) -> bool:
        """On a port that speaks HTTP/2 as well, something that begins as neither does: nobody is there to read an
        answer of HTTP/1.1's (RFC 9112 section 2.2), and HTTP/2 has none for it (RFC 9113 section 3.4)."""
        if self._on_preface is None or self.requests or self._state is not _State.HEAD:
            return False
        line, whole, _ = self._buffer.lstrip(b"\r\n").partition(b"\n")
        return bool(whole) and b"HTTP/" not in line

    async def _advance_later(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._state is _State.HELD and not self.closed:
            self._await_request()

    def _read_head(self) -> bool:
        buffer = self._buffer
        start = 0
        if buffer.startswith(_PREFACE_LINE) and self._on_preface is not None and not self.requests:
            return self._read_preface(buffer, self._on_preface)
        while buffer.startswith(b"\r\n", start) and start < 4:
            start += 2  # RFC 9112 section 2.2: an empty line before a request is ignored; two are enough.
        end = head_end(buffer, start)
        if (end if end >= 0 else len(buffer)) - start > self._limits.head_bytes_max:
            raise RemoteProtocolError(f"head of more than {self._limits.head_bytes_max} bytes", status_hint=431)
        if end < 0:
            if len(buffer) > start:
                self._await_rest()
            return False
        head = parse_request_head(buffer[start:end])
        if head.expect and head.expect.lower() != b"100-continue":
            self.refuse(
                Refusal(417, "expectation", f"cannot meet the expectation {head.expect[:80].decode('latin-1')!r}")
            )
            return False
        limit = self._limits.body_bytes_max
        if head.framing > limit:
            self.refuse(Refusal(413, "body_oversized", f"body of {head.framing} bytes; at most {limit} are taken"))
            return False
        stop = end + head.framing
        if end <= stop <= len(buffer):
            # The usual case: the whole body came with its head.
            self._buffer = buffer[stop:] if stop < len(buffer) else b""
            self._deliver(head, buffer[end:stop])
        else:
            self._start_body(head, buffer[end:])
        return True

    def _await_rest(self) -> None:
        if not self._head_begun:
            self._head_begun = True
            self.timers.arm(self, self.timers.now() + self._limits.head_timeout_s)

    def _read_preface(self, buffer: bytes, on_preface: Switch) -> bool:
        """It looks like a request head, and would be refused as one; what it begins is HTTP/2."""
        if len(buffer) < len(HTTP2_PREFACE):
            self._await_rest()
        elif buffer.startswith(HTTP2_PREFACE):
            self.switch_to(on_preface)
        else:
            raise RemoteProtocolError("begins like HTTP/2, and its preface (RFC 9113 section 3.4) is another")
        return False

    def _start_body(self, head: RequestHead, begun: bytes) -> None:
        self._buffer = begun
        self._head = head
        self._body = body_of(head.framing, keep_payload=True)
        self._body_parts = []
        self._body_bytes = 0
        self._payload_bytes = 0
        self._body_since = self.timers.now()
        self._state = _State.BODY
        if head.expect and head.minor and not self._buffer and not self._body.done:
            self.write(_CONTINUE)
        if not self._body.done:
            self.timers.arm(self, self._body_since + self._limits.body_timeout_s)

    def _read_body(self) -> None:
        body, head = self._body, self._head
        assert body is not None
        assert head is not None
        buffer = self._buffer
        taken = body.feed(buffer)
        self._body_bytes += taken
        # Chunks are joined with each read: kept one by one, tiny ones take ten times their bytes.
        part = body.take_payload() if isinstance(body, ChunkedBody) else buffer[:taken]
        self._buffer = buffer[taken:]
        self._body_parts.append(part)
        self._payload_bytes += len(part)
        if self._payload_bytes > self._limits.body_bytes_max:
            raise RemoteProtocolError(f"body of more than {self._limits.body_bytes_max} bytes", status_hint=413)
        bodies = self._limits.bodies
        if not bodies.take(len(part)):
            self.refuse(Refusal(503, "bodies_in_flight", bodies.refusal))
            return
        self._held_bytes += len(part)
        if body.done:
            self._deliver(head, b"".join(self._body_parts))

    def _deliver(self, head: RequestHead, body: bytes) -> None:
        self._head = self._body = None
        self._body_parts = []
        self._head_begun = False
        self._state = _State.BUSY
        self.keep_alive = head.keep_alive and head.minor == 1
        self.http_minor = head.minor
        self.requests += 1
        self.deadline = math.inf
        if self.backlog_len:
            self.on_backlog()  # A 100 Continue that the client does not take.
        call = self._answer(self, Request(head, body, self.timers.now()))
        if call is not None:
            self.hand_over(call)

    def _free_body(self) -> None:
        held, self._held_bytes = self._held_bytes, 0
        self._limits.bodies.give(held)

    # --- refusing and ending ---

    def refuse(self, refusal: Refusal) -> None:
        """Answer by `refuse`'s bytes and end the connection, letting the client read the answer first."""
        self._buffer = b""
        self._body_parts = []
        self._free_body()
        self.keep_alive = False
        self.write(self._refuse(refusal))
        self._linger()

    def _linger(self) -> None:
        """Closing with unread input makes the kernel reset the connection, which can eat the answer."""
        if self.closed:
            return
        self._state = _State.LINGER
        self._buffer = b""
        self.bytes_in = 0
        self.resume()
        if self.backlog_len:
            self.on_backlog()  # A slow reader gets all of it: its time begins when the last byte is out.
        else:
            self.on_flushed()

    def on_flushed(self) -> None:
        match self._state:
            case _State.LINGER:
                self._say_goodbye()
            case _State.BUSY:
                self.deadline = math.inf
            case _State.HELD:
                self._await_request()
            case _:
                pass  # A word inside a request (100 Continue): the request's own time runs on.

    def _say_goodbye(self) -> None:
        self.timers.arm(self, self.timers.now() + _LINGER_S)
        try:
            if self.tls is not None and self.tls.ready:
                self._write_raw(self.tls.close_notify())
            if self.backlog_len == 0:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()  # The client went first.

    def on_backlog(self) -> None:
        self._sent_mark = self.bytes_out
        self.timers.arm(self, self.timers.now() + self._limits.send_timeout_s)

    def on_secure(self) -> None:
        self.timers.arm(self, self.timers.now() + self._limits.idle_timeout_s)

    def on_deadline(self, now: float) -> None:
        if self.tls is not None and not self.tls.ready:
            self.lose("no TLS handshake by its deadline (handshake_timeout_s)")
            return
        limits = self._limits
        match self._state:
            case _State.LINGER if self.backlog_len == 0:
                self.abort()
            case _State.BUSY | _State.HELD | _State.LINGER:
                if self.backlog_len == 0:
                    return
                if self.bytes_out == self._sent_mark:
                    self._refuse(Refusal(408, "send_timed_out", "the client takes no output"))
                    self.lose(f"took no output for {limits.send_timeout_s} s (send_timeout_s)")
                    return
                self._sent_mark = self.bytes_out
                self.timers.arm(self, now + limits.send_timeout_s)
            case _State.BODY:
                allowed = self._body_since + limits.body_timeout_s + self._body_bytes / limits.body_rate_min
                if now < allowed:
                    self.timers.arm(self, allowed)
                    return
                self.refuse(Refusal(408, "body_timed_out", "the request's body came too slowly (body_timeout_s)"))
            case _State.HEAD:
                if self._head_begun:
                    text = f"the request's head was not complete after {limits.head_timeout_s} s (head_timeout_s)"
                    self.refuse(Refusal(408, "head_timed_out", text))
                else:
                    self.close()
            case _:
                assert_never(self._state)


def _reason_of(error: RemoteProtocolError) -> str:
    if isinstance(error, AmbiguousFraming):
        return "smuggling"
    match error.status_hint:
        case 413:
            return "body_oversized"
        case 414 | 431:
            return "head_oversized"
        case _:
            return "malformed"
