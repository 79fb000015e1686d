"""One call on the serving side: messages in and out of one HTTP/2 stream, its deadline, its end.

A call is the stream's `StreamReader` and its `work`; to the method that serves it, it is context, receiver and sender
in one. The method runs in the stream's task (`hand_over`), begun at the head where it takes a stream of messages, and
otherwise once its one message is whole, so that a client that never finishes costs no task.

Whatever ends the call first wins: the method's return or error, the deadline, a fault of the client's framing, the
client's reset. In each case trailers are sent if anybody is there to read them, and the method is cancelled if it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Protocol, Self, assert_never

import msgspec
import trio
from google.protobuf.message import DecodeError, Message

from infermesh.net.connection import ConnectionLost
from infermesh.net.grpc.inbox import Inbox, pass_turn
from infermesh.net.http2.server_stream import Http2ServerStream
from infermesh.net.timers import Entry
from wire.grpc import CallHead, Code, Encoding, GrpcStatus, Metadata, RpcError, encode_message
from wire.grpc.call import response_fields, trailer_fields, trailers_only_fields
from wire.grpc.details import encode_details
from wire.grpc.metadata import NO_METADATA, Pair, encode_metadata
from wire.grpc.service import AnyRoute, Peer, ServerContext, StreamStream, StreamUnary, UnaryStream, UnaryUnary
from wire.grpc.status import OK_STATUS
from wire.http1 import Field
from wire.limits import GRPC_MESSAGE_BYTES_MAX


class GrpcLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one call may take."""

    message_bytes_max: int = GRPC_MESSAGE_BYTES_MAX
    # For the one message of a method that takes no stream: from the head to its last byte.
    request_timeout_s: float = 30.0


class CallLog(Protocol):
    """Where a defect of a method is told; `infermesh.observe.logs.Logger` is one."""

    def error(self, event: str, /, **fields: object) -> None: ...


class CallEnds(Protocol):
    """Told how each call ended, for metrics."""

    def __call__(self, path: str, code: Code, took_s: float) -> None: ...


# What a UnaryUnary route holds where it is no coroutine function; an answer of another type is found when it is sent.
PlainMethod = Callable[[Any, ServerContext], Any]


class ServerCall:
    """Made by GrpcServices only. Implements StreamReader, Work, Timed, ServerContext, Receiver and Sender."""

    __slots__ = (
        "_began_at",
        "_encoding",
        "_head_sent",
        "_inbox",
        "_leading",
        "_limits",
        "_log",
        "_on_ended",
        "_over",
        "_own_deadline",
        "_plain",
        "_route",
        "_running",
        "_sent",
        "_trailing",
        "deadline",
        "head",
        "path",
        "peer",
        "stream",
        "timer",
    )

    def __init__(
        self, stream: Http2ServerStream, head: CallHead, route: AnyRoute, limits: GrpcLimits, log: CallLog
    ) -> None:
        self.stream = stream
        self.head = head
        self.path = head.path.decode("ascii", "replace")
        self.peer: Peer | None = None
        self.deadline = math.inf
        self.timer: Entry | None = None
        self._route = route
        self._limits = limits
        self._log = log
        self._on_ended: CallEnds | None = None
        self._inbox = Inbox(stream, limits.message_bytes_max)
        self._inbox.encoding = head.encoding
        self._encoding = Encoding.IDENTITY
        self._leading: Metadata = NO_METADATA
        self._trailing: Metadata = NO_METADATA
        self._head_sent = False
        self._plain: PlainMethod | None = None
        self._running = False
        self._over = False
        self._sent = 0
        self._began_at = 0.0
        self._own_deadline = math.inf

    def begin(self, peer: Peer | None, on_ended: CallEnds | None, *, plain: PlainMethod | None) -> None:
        """The head is there: the deadline runs from here. `plain`: the method, if it waits for nothing."""
        self._plain = plain
        stream, timers = self.stream, self.stream.connection.timers
        self.peer = peer
        self._on_ended = on_ended
        self._began_at = now = timers.now()
        stream.work = self
        self._own_deadline = now + self.head.timeout_s
        if self._route.method.client_streaming:
            if self._own_deadline < math.inf:
                timers.arm(self, self._own_deadline)
            self._start()
        else:
            timers.arm(self, min(self._own_deadline, now + self._limits.request_timeout_s))

    # --- what the stream tells: plain calls ---

    def on_data(self, data: bytes, flow_bytes: int, *, end: bool) -> None:
        if self._over:
            return
        try:
            self._inbox.feed(data)
            if not self._route.method.client_streaming and self._inbox.waiting > 1:
                raise RpcError(Code.INTERNAL, f"{self.path} takes one message, and a second one came")
            if end:
                self._on_end()
        except RpcError as error:
            self.end(error.status)
        else:
            self.stream.credit(flow_bytes)

    def on_trailers(self, fields: list[Field]) -> None:
        """Trailers of a request mean nothing in gRPC, beyond that it ends here."""
        self.on_data(b"", 0, end=True)

    def on_drained(self) -> None:
        """`send` waits in the stream's own `drain`."""

    def on_connection_lost(self) -> None:
        """The client has gone, or reset the call. Its task is cancelled by the stream."""
        self._finish(Code.CANCELLED)

    def on_deadline(self, now: float) -> None:
        if now < self._own_deadline and self._running:
            return  # The limit on the request's arrival; it has arrived since.
        if now >= self._own_deadline:
            text = f"the deadline of {self.head.timeout_s:g} s passed on the server, after {now - self._began_at:.3f} s"
        else:
            text = f"{self.path}: no whole request within {self._limits.request_timeout_s:g} s"
        self.end(GrpcStatus(Code.DEADLINE_EXCEEDED, text))

    def _on_end(self) -> None:
        self._inbox.finish()
        if self._route.method.client_streaming:
            return
        if not self._inbox.waiting:
            raise RpcError(Code.INTERNAL, f"{self.path} takes one message, and the client sent none")
        timers = self.stream.connection.timers
        if self._own_deadline < math.inf:
            timers.arm(self, self._own_deadline)
        else:
            timers.disarm(self)
        self._start()

    def _start(self) -> None:
        if self._plain is None:
            self._running = True
            self.stream.hand_over(self._serve)
        else:
            self._serve_at_once(self._plain)

    def _serve_at_once(self, method: PlainMethod) -> None:
        """A method that waits for nothing needs no task."""
        try:
            self._send_now(method(self._one_request(), self))
            status = OK_STATUS
        except Exception as error:  # noqa: BLE001 - one call's defect: its client is answered, all others live on.
            status = self._status_of(error)
        self.end(status)

    # --- the task ---

    async def _serve(self) -> None:
        try:
            response = await self._call_method()
            if not self._route.method.server_streaming:
                self._send_now(response)
            status = OK_STATUS
        except Exception as error:  # noqa: BLE001 - one call's defect: its client is answered, all others live on.
            status = self._status_of(error)
        except BaseExceptionGroup as group:
            # A nursery of the method was cancelled, and one of its tasks failed in the same turn: as a rule because
            # it was told by `receive` or `send` that the call is over. Only the cancellation may leave this task.
            cancelled, failed = group.split(trio.Cancelled)
            if cancelled is None or not isinstance(failed, ExceptionGroup):
                raise
            self.end(self._status_of(failed))
            raise cancelled from None
        finally:
            self._running = False
        self.end(status)

    async def _call_method(self) -> Message | None:
        route = self._route
        response: Message | None = None
        match route:
            case UnaryUnary():
                response = await route.call(self._one_request(), self)
            case UnaryStream():
                await route.call(self._one_request(), self, self)
            case StreamUnary():
                response = await route.call(self, self)
            case StreamStream():
                await route.call(self, self, self)
            case _:
                assert_never(route)
        return response

    def _status_of(self, error: Exception) -> GrpcStatus:
        rpc_error = _rpc_error_in(error)
        if rpc_error is not None:
            if len(rpc_error.metadata):
                self._trailing = Metadata([*self._trailing, *rpc_error.metadata])
            return rpc_error.status
        self._log.error(
            "grpc_method_crashed", path=self.path, error=type(error).__name__, detail=str(error)[:500], exc_info=error
        )
        return GrpcStatus(Code.UNKNOWN, f"a defect in {self.path}, see grpc_method_crashed in the node's log")

    def _one_request(self) -> Any:
        raw = self._inbox.take()
        assert raw is not None, "a method without a stream starts with its message"
        return self._decode(raw)

    def _decode(self, raw: bytes) -> Any:
        kind = self._route.method.request
        try:
            return kind.FromString(raw)
        except DecodeError as error:
            text = f"{len(raw)} bytes that are no {kind.DESCRIPTOR.full_name}: {error}"
            raise RpcError(Code.INTERNAL, text) from error

    # --- what the method sees ---

    @property
    def metadata(self) -> Metadata:
        return self.head.metadata

    def set_leading(self, pairs: Iterable[Pair]) -> None:
        assert not self._head_sent, "the response's head has gone out with the first message"
        self._leading = _checked(pairs)

    def set_trailing(self, pairs: Iterable[Pair]) -> None:
        self._trailing = _checked(pairs)

    def set_encoding(self, encoding: Encoding) -> None:
        assert not self._head_sent, "the response's head has gone out with the first message"
        if encoding in self.head.accepts:
            self._encoding = encoding

    def abort(self, code: Code, message: str, details: Iterable[Message] = ()) -> NoReturn:
        packed = list(details)
        raise RpcError(code, message, encode_details(code, message, packed) if packed else None)

    async def receive(self) -> Any:
        try:
            raw = await self._inbox.receive()
        except RpcError as error:
            self.end(error.status)  # Also where the method would go on regardless.
            raise
        return None if raw is None else self._decode(raw)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def send(self, message: Message) -> None:
        self._send_now(message)
        self._sent += 1
        await pass_turn(self._sent)
        try:
            await self.stream.drain()
        except ConnectionLost as error:
            raise self._gone() from error

    def _send_now(self, message: Message | None) -> None:
        if self._over or self.stream.closed:
            raise self._gone()
        if not isinstance(message, self._route.method.response):
            raise TypeError(f"{self.path} answers {self._route.method.response.__name__}, not {type(message).__name__}")
        if not self._head_sent:
            self._head_sent = True
            self.stream.send_head(response_fields(encoding=self._encoding, metadata=self._leading))
        self.stream.send_data(encode_message(message.SerializeToString(), self._encoding))

    def _gone(self) -> RpcError:
        return RpcError(Code.CANCELLED, f"{self.path}: the call is over, nobody reads this")

    # --- the end ---

    def end(self, status: GrpcStatus) -> None:
        """Trailers, unless the call is over; the method is cancelled if it still runs."""
        if self._over:
            return
        stream = self.stream
        if self._running and stream.scope is not None and status.code is not Code.OK:
            stream.scope.cancel()  # First: a method that waits for a message must find itself cancelled, not failed.
        self._finish(status.code)
        if stream.closed:
            return
        if self._head_sent:
            stream.send_trailers(trailer_fields(status, self._trailing))
        else:
            stream.send_head(self._trailers_only(status), end=True)
        stream.finish()

    def _trailers_only(self, status: GrpcStatus) -> list[Field]:
        fields = trailers_only_fields(status, self._trailing)
        return fields + encode_metadata(self._leading) if len(self._leading) else fields

    def _finish(self, code: Code) -> None:
        if self._over:
            return
        self._over = True
        timers = self.stream.connection.timers
        timers.disarm(self)
        if not self._inbox.ended or self._inbox.waiting:  # Else nobody can be waiting for more.
            self._inbox.fail(RpcError(Code.CANCELLED, f"{self.path}: the call is over"))
        if self._on_ended is not None:
            self._on_ended(self.path, code, timers.now() - self._began_at)


def _checked(pairs: Iterable[Pair]) -> Metadata:
    """What cannot be sent is found where it is set, not when the trailers go out."""
    metadata = Metadata(pairs)
    encode_metadata(metadata)
    return metadata


def _rpc_error_in(error: BaseException) -> RpcError | None:
    """The RpcError that a method raised, also from inside a nursery of its own."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, RpcError) else None
