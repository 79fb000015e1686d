"""A channel: calls to one address over pooled HTTP/2 connections. It is the `Caller` behind generated stubs.

Connecting, deadlines, cancellation and transparent retries are its affair; which address, and whether a call that was
processed may be made again, are the caller's. A channel holds no task: what waits, waits in the task that calls.

Duties of the caller: `close` at the end. Leaving the context of a stream cancels what is not over.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import msgspec
import trio
from google.protobuf.message import Message

from infermesh.net.grpc.client_call import StreamCall
from infermesh.net.http2.client import CLIENT_CONFIG
from infermesh.net.http2.client_stream import Http2UpstreamStream
from infermesh.net.http2.endpoint import EndpointTimes
from infermesh.net.http2.pool import Http2Pool
from infermesh.net.pool import ConnectFailed, PoolLimits, Secure
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from wire.grpc import Code, RpcError, encode_message
from wire.grpc.service import NO_OPTIONS, CallOptions, Method
from wire.limits import GRPC_MESSAGE_BYTES_MAX

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

_BACKOFF_FIRST_S: Final = 0.05
_BACKOFF_LAST_S: Final = 2.0
_ATTEMPTS_AT_ONCE: Final = 2
_REFUSED_WAIT_S: Final = 0.01
_DEFAULT_POOL: Final = PoolLimits(connections_max=4)


class ChannelConfig(msgspec.Struct, frozen=True, kw_only=True):
    message_bytes_max: int = GRPC_MESSAGE_BYTES_MAX  # Of a response.
    timeout_s: float = math.inf  # Of calls that say nothing themselves.


class Channel:
    def __init__(
        self, pool: Http2Pool, *, authority: str, secure: bool = False, config: ChannelConfig | None = None
    ) -> None:
        """`authority`: for `:authority`, `host:port` as a rule. `secure`: the pool speaks TLS."""
        self._pool = pool
        self._config = config or ChannelConfig()
        self.authority = authority.encode()
        self.scheme = b"https" if secure else b"http"
        self.message_bytes_max = self._config.message_bytes_max

    @classmethod
    def to(
        cls,
        address: tuple[str, int],
        reactor: Reactor,
        timers: Timers,
        *,
        secure: Secure | None = None,
        limits: PoolLimits = _DEFAULT_POOL,
        times: EndpointTimes | None = None,
        config: ChannelConfig | None = None,
    ) -> Channel:
        """A channel with a pool of its own."""
        pool = Http2Pool(address, reactor, timers, limits=limits, secure=secure, config=CLIENT_CONFIG, times=times)
        host, port = address
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return cls(pool, authority=authority, secure=secure is not None, config=config)

    def close(self) -> None:
        """Calls under way fail as UNAVAILABLE."""
        self._pool.close()

    # --- what stubs call ---

    async def unary(
        self, method: Method[Request, Response], request: Request, options: CallOptions = NO_OPTIONS
    ) -> Response:
        """Raises RpcError."""
        options = self._effective(options)
        call: StreamCall[Request, Response] = StreamCall(self, method, options)
        try:
            await call.open(encode_message(request.SerializeToString(), options.encoding))
            return await call.reply()
        finally:
            call.cancel()

    @asynccontextmanager
    async def stream(
        self, method: Method[Request, Response], options: CallOptions = NO_OPTIONS
    ) -> AsyncIterator[StreamCall[Request, Response]]:
        call: StreamCall[Request, Response] = StreamCall(self, method, self._effective(options))
        try:
            await call.open()
            yield call
        finally:
            call.cancel()

    @asynccontextmanager
    async def ask(
        self, method: Method[Request, Response], request: Request, options: CallOptions = NO_OPTIONS
    ) -> AsyncIterator[StreamCall[Request, Response]]:
        options = self._effective(options)
        call: StreamCall[Request, Response] = StreamCall(self, method, options)
        try:
            await call.open(encode_message(request.SerializeToString(), options.encoding))
            yield call
        finally:
            call.cancel()

    # --- what calls ask ---

    async def acquire(self, deadline: float, *, wait_for_ready: bool, attempt: int) -> Http2UpstreamStream:
        """A stream for one attempt, counted from 1. Raises RpcError."""
        if attempt > _ATTEMPTS_AT_ONCE:
            # A server that is at its limit refuses again at once; one that left (GOAWAY) is another connection already.
            await self._back_off(deadline, _REFUSED_WAIT_S * 2 ** (attempt - _ATTEMPTS_AT_ONCE))
        if trio.current_time() < deadline and (up := self._pool.take_idle()) is not None:
            return up
        backoff_s = _BACKOFF_FIRST_S
        while True:
            try:
                return await self._pool.acquire(deadline)
            except ConnectFailed as error:
                if trio.current_time() >= deadline:
                    raise RpcError(Code.DEADLINE_EXCEEDED, str(error), unprocessed=True) from error
                if not wait_for_ready:
                    raise RpcError(Code.UNAVAILABLE, str(error), unprocessed=True) from error
            await self._back_off(deadline, backoff_s)
            backoff_s = min(2 * backoff_s, _BACKOFF_LAST_S)

    async def _back_off(self, deadline: float, longest_s: float) -> None:
        """Half of it by chance: callers that failed together must not all come back together."""
        await trio.sleep_until(min(deadline, trio.current_time() + longest_s * random.uniform(0.5, 1.0)))

    def _effective(self, options: CallOptions) -> CallOptions:
        if options.timeout_s == math.inf and self._config.timeout_s < math.inf:
            return msgspec.structs.replace(options, timeout_s=self._config.timeout_s)
        return options
