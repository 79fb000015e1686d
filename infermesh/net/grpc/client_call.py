"""One call on the asking side: a stream got from the pool, messages both ways, its deadline, its end.

A call that the peer has provably not looked at (REFUSED_STREAM, a GOAWAY with a lower number, a connection that broke
before the head was out) is sent again, without a word to the caller, as long as all that was sent of it is still here:
until its response begins, and of a stream of messages up to 256 KiB.

What arrived before the end is given out before the end is told. The status is the server's where one came, and else
says which layer failed: a reset by its code, a lost connection as UNAVAILABLE, the deadline as DEADLINE_EXCEEDED.
"""

from __future__ import annotations

import math
from typing import Final, Generic, Protocol, Self, TypeVar

import trio
from google.protobuf.message import DecodeError, Message

from infermesh.net.connection import ConnectionLost
from infermesh.net.grpc.inbox import Inbox, pass_turn
from infermesh.net.http2.client_stream import Http2UpstreamStream
from infermesh.net.timers import Entry
from wire.grpc import NO_METADATA, Code, GrpcStatus, Metadata, RpcError, encode_message, from_reset, read_response
from wire.grpc.call import CallEnd, read_trailers, read_trailers_only, request_fields
from wire.grpc.service import CallOptions, Method
from wire.http1 import ResponseHead

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

_REPLAY_BYTES_MAX: Final = 262_144
# The first and so many transparent ones: a peer that refuses each stream must not be asked for ever.
_ATTEMPTS_MAX: Final = 5


class StreamOrigin(Protocol):
    """What a call asks of its channel."""

    authority: bytes
    scheme: bytes
    message_bytes_max: int

    async def acquire(self, deadline: float, *, wait_for_ready: bool, attempt: int) -> Http2UpstreamStream:
        """Raises RpcError."""


class StreamCall(Generic[Request, Response]):
    """A `wire.grpc.service.ClientCall`. Made by Channel only."""

    __slots__ = (
        "_attempts",
        "_end",
        "_got_body",
        "_head",
        "_inbox",
        "_leading",
        "_method",
        "_options",
        "_origin",
        "_refused",
        "_reopening",
        "_replay",
        "_replay_bytes",
        "_sent",
        "_sent_end",
        "_trailing",
        "_unprocessed",
        "_up",
        "deadline",
        "expires_at",
        "timer",
    )

    def __init__(self, origin: StreamOrigin, method: Method[Request, Response], options: CallOptions) -> None:
        self._origin = origin
        self._method = method
        self._options = options
        self.expires_at = trio.current_time() + options.timeout_s
        self.deadline = math.inf  # Of the timer, which is disarmed when the call ends.
        self.timer: Entry | None = None
        self._up: Http2UpstreamStream | None = None
        self._inbox: Inbox | None = None
        self._attempts = 0
        self._refused = False  # The attempt under way was not processed; try again.
        self._unprocessed = False
        self._reopening: trio.Event | None = None
        self._replay: list[bytes] | None = []  # What was sent, while it may have to be sent again.
        self._replay_bytes = 0
        self._sent = 0
        self._sent_end = False
        self._head: ResponseHead | None = None
        self._got_body = False
        self._leading: Metadata | None = None
        self._trailing: Metadata = NO_METADATA
        self._end: GrpcStatus | None = None

    # --- opening ---

    async def open(self, first: bytes | None = None) -> None:
        """Send the head; with `first` (a framed message) also that and the end. Raises RpcError."""
        if first is not None:
            self._replay = [first]  # Whatever its size: until it is sent its caller holds it all the same.
            self._sent_end = True
        await self._attempt()

    async def _attempt(self) -> None:
        self._attempts += 1
        up = await self._origin.acquire(
            self.expires_at, wait_for_ready=self._options.wait_for_ready, attempt=self._attempts
        )
        self._refused = False
        self._inbox = Inbox(up, self._origin.message_bytes_max)
        timers = up.connection.timers
        left_s = self.expires_at - timers.now()
        if left_s < 1e-9:
            up.release()
            raise self._fail(Code.DEADLINE_EXCEEDED, f"the deadline of {self._options.timeout_s:g} s passed here")
        self._up = up
        fields = request_fields(
            self._method.path.encode(),
            self._origin.authority,
            scheme=self._origin.scheme,
            timeout_s=left_s,
            encoding=self._options.encoding,
            metadata=self._options.metadata,
        )
        if left_s < math.inf and self.timer is None:
            timers.arm(self, self.expires_at)
        up.open(fields, self, data=b"".join(self._replay or ()), end=self._sent_end)

    async def _reopen(self) -> None:
        """The attempt was refused unprocessed: another one. Tasks that send and receive may both find it so."""
        if self._reopening is not None:
            await self._reopening.wait()
            return
        self._reopening = trio.Event()
        try:
            await self._attempt()
        except RpcError as error:
            if self._end is None:
                self._over(error.status)
            raise
        finally:
            self._reopening.set()
            self._reopening = None

    def _keep(self, data: bytes) -> None:
        if self._replay is not None:
            self._replay_bytes += len(data)
            if self._replay_bytes > _REPLAY_BYTES_MAX:
                self._replay = None
            else:
                self._replay.append(data)

    # --- what the stream tells: plain calls ---

    def on_interim(self, up: Http2UpstreamStream, head: ResponseHead) -> None:
        """Of no meaning in gRPC."""

    def on_head(self, up: Http2UpstreamStream, head: ResponseHead) -> None:
        self._head = head
        self._replay = None
        if head.value(b"grpc-status") is None:
            started = read_response(head.status, head.fields)
            if isinstance(started, GrpcStatus):
                self._give_up(started)
                return
            assert self._inbox is not None
            self._inbox.encoding = started.encoding
            self._leading = started.metadata
            self._inbox.wake()
        up.read_body()

    def on_first_bytes(self, up: Http2UpstreamStream) -> None:
        raise AssertionError("nothing is held here")

    def on_body(self, up: Http2UpstreamStream, payload: bytes) -> None:
        self._got_body = True
        assert self._inbox is not None
        try:
            self._inbox.feed(payload)
        except RpcError as error:
            self._give_up(error.status)
            return
        if self._inbox.waiting > 1 and not self._method.server_streaming:
            self._give_up(GrpcStatus(Code.INTERNAL, f"{self._method.path} answers once, and a second message came"))

    def on_end(self, up: Http2UpstreamStream) -> None:
        assert self._head is not None
        end = self._read_end(up, self._head)
        self._trailing = end.metadata
        assert self._inbox is not None
        status = end.status
        try:
            self._inbox.finish()
        except RpcError as error:
            # An error of the server explains a cut message; only an OK is belied by one.
            status = error.status if status.code is Code.OK else status
        self._over(status)

    def on_failed(self, up: Http2UpstreamStream, error: ConnectionLost) -> None:
        if up.reset_code < 0:
            code = Code.UNAVAILABLE
        else:
            code = from_reset(up.reset_code, deadline_passed=up.connection.timers.now() >= self.expires_at)
        if up.unprocessed:
            code = Code.UNAVAILABLE
            if self._replay is not None and self._attempts < _ATTEMPTS_MAX:
                self._refused = True
                assert self._inbox is not None
                self._inbox.wake()
                return
        self._unprocessed = up.unprocessed
        self._over(GrpcStatus(code, f"{self._method.path}: {error}"))

    def on_doubt(self, up: Http2UpstreamStream, why: str) -> None:
        """The connection's own pings, or the deadline, tell for certain."""

    def on_deadline(self, now: float) -> None:
        self._give_up(
            GrpcStatus(Code.DEADLINE_EXCEEDED, f"{self._method.path}: no end within {self._options.timeout_s:g} s")
        )

    def _read_end(self, up: Http2UpstreamStream, head: ResponseHead) -> CallEnd:
        if up.trailers:
            return read_trailers(up.trailers)
        if self._got_body or self._leading is not None:
            return read_trailers(())
        return read_trailers_only(head.status, head.fields)

    # --- what the caller asks ---

    async def send(self, message: Request) -> None:
        assert not self._sent_end, "sending was finished"
        data = encode_message(message.SerializeToString(), self._options.encoding)
        await self._ready_to_send()
        self._keep(data)
        up = self._up
        assert up is not None
        up.send_data(data)
        self._sent += 1
        await pass_turn(self._sent)
        try:
            await up.drain()
        except ConnectionLost:
            if not self._refused:
                raise self._closed_error() from None
            # Else it is in the replay, or was too large for it, which the next step will tell.

    async def finish_sending(self) -> None:
        if self._sent_end:
            return
        self._sent_end = True
        if not self._refused and self._end is None:
            assert self._up is not None
            self._up.send_data(b"", end=True)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def receive(self) -> Response | None:
        """None: the call ended, and well. Raises RpcError."""
        while True:
            inbox = self._inbox
            assert inbox is not None, "the call was not opened"
            try:
                raw = inbox.take()
            except RpcError as error:
                if self._end is None:
                    self._give_up(error.status)
                raise
            if raw is not None:
                self._sent += 1
                await pass_turn(self._sent)
                return self._decode(raw)
            if self._end is not None:
                await trio.lowlevel.checkpoint_if_cancelled()
                if self._end.code is Code.OK:
                    return None
                raise self._error_of(self._end)
            if self._refused:
                await self._reopen()
            else:
                await inbox.wait_change()

    async def reply(self) -> Response:
        await self.finish_sending()
        response = await self.receive()
        if response is None:
            raise RpcError(Code.INTERNAL, f"{self._method.path} ended with OK and without its message")
        if await self.receive() is not None:
            text = f"{self._method.path} answers once, and a second message came"
            self._give_up(GrpcStatus(Code.INTERNAL, text))
            raise RpcError(Code.INTERNAL, text)
        return response

    async def leading(self) -> Metadata:
        while self._leading is None and self._end is None:
            assert self._inbox is not None
            if self._refused:
                await self._reopen()
            else:
                await self._inbox.wait_change()
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._leading if self._leading is not None else NO_METADATA

    @property
    def trailing(self) -> Metadata:
        return self._trailing

    @property
    def status(self) -> GrpcStatus | None:
        """How it ended; None while it has not."""
        return self._end

    def cancel(self) -> None:
        self._give_up(GrpcStatus(Code.CANCELLED, f"{self._method.path}: cancelled here"))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Response:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    # --- the end ---

    async def _ready_to_send(self) -> None:
        while self._end is None and self._refused:
            await self._reopen()
        if self._end is not None:
            raise self._closed_error()

    def _closed_error(self) -> RpcError:
        if self._end is None or self._end.code is Code.OK:
            return RpcError(Code.CANCELLED, f"{self._method.path}: the server has ended the call and takes no more")
        return self._error_of(self._end)

    def _error_of(self, status: GrpcStatus) -> RpcError:
        return RpcError(status.code, status.message, status.details, self._trailing, unprocessed=self._unprocessed)

    def _give_up(self, status: GrpcStatus) -> None:
        """End it from here: RST_STREAM(CANCEL), and what has come and was not taken is dropped."""
        if self._end is not None:
            return
        up = self._up
        self._over(status)
        if self._inbox is not None:
            self._inbox.fail(RpcError(status.code, status.message, status.details))
        if up is not None:
            up.detach()

    def _over(self, status: GrpcStatus) -> None:
        if self._end is not None:
            return
        self._end = status
        self._refused = False
        self._replay = None
        up = self._up
        if up is not None:
            up.connection.timers.disarm(self)
        if self._inbox is not None:
            self._inbox.wake()

    def _fail(self, code: Code, text: str) -> RpcError:
        self._over(GrpcStatus(code, text))
        return RpcError(code, text)

    def _decode(self, raw: bytes) -> Response:
        kind = self._method.response
        try:
            message: Response = kind.FromString(raw)
            return message
        except DecodeError as error:
            text = f"{self._method.path}: {len(raw)} bytes that are no {kind.DESCRIPTOR.full_name}: {error}"
            self._give_up(GrpcStatus(Code.INTERNAL, text))
            raise RpcError(Code.INTERNAL, text) from error
