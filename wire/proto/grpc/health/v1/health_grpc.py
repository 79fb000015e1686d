"""Services of grpc/health/v1/health.proto: bases for servers, stubs for clients.

Made by scripts/proto; do not edit.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Final

from wire.grpc.service import (
    NO_OPTIONS,
    AnyRoute,
    Caller,
    CallOptions,
    ClientCall,
    Method,
    Sender,
    ServerContext,
    UnaryStream,
    UnaryUnary,
    unimplemented,
)
from wire.proto.grpc.health.v1 import health_pb2

HEALTH_CHECK: Final = Method(
    "/grpc.health.v1.Health/Check",
    health_pb2.HealthCheckRequest,
    health_pb2.HealthCheckResponse,
)
HEALTH_LIST: Final = Method(
    "/grpc.health.v1.Health/List",
    health_pb2.HealthListRequest,
    health_pb2.HealthListResponse,
)
HEALTH_WATCH: Final = Method(
    "/grpc.health.v1.Health/Watch",
    health_pb2.HealthCheckRequest,
    health_pb2.HealthCheckResponse,
    server_streaming=True,
)


class HealthBase:
    """What a server of grpc.health.v1.Health overrides; the rest answers UNIMPLEMENTED."""

    name: Final = "grpc.health.v1.Health"
    file: Final = health_pb2.DESCRIPTOR

    def routes(self) -> tuple[AnyRoute, ...]:
        return (
            UnaryUnary(HEALTH_CHECK, self.check),
            UnaryUnary(HEALTH_LIST, self.list),
            UnaryStream(HEALTH_WATCH, self.watch),
        )

    def check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: ServerContext,
    ) -> Awaitable[health_pb2.HealthCheckResponse] | health_pb2.HealthCheckResponse:
        """The status now. A service that nobody set a status for is NOT_FOUND."""
        raise unimplemented(HEALTH_CHECK)

    def list(
        self,
        request: health_pb2.HealthListRequest,
        context: ServerContext,
    ) -> Awaitable[health_pb2.HealthListResponse] | health_pb2.HealthListResponse:
        """The status of each service that has one."""
        raise unimplemented(HEALTH_LIST)

    async def watch(
        self,
        request: health_pb2.HealthCheckRequest,
        responses: Sender[health_pb2.HealthCheckResponse],
        context: ServerContext,
    ) -> None:
        """The status now and after each change. An unknown service is SERVICE_UNKNOWN, and the stream stays
        open.
        """
        raise unimplemented(HEALTH_WATCH)


class HealthStub:
    """Calls grpc.health.v1.Health through a channel."""

    def __init__(self, channel: Caller) -> None:
        self._channel = channel

    async def check(
        self,
        request: health_pb2.HealthCheckRequest,
        options: CallOptions = NO_OPTIONS,
    ) -> health_pb2.HealthCheckResponse:
        """The status now. A service that nobody set a status for is NOT_FOUND."""
        return await self._channel.unary(HEALTH_CHECK, request, options)

    async def list(
        self,
        request: health_pb2.HealthListRequest,
        options: CallOptions = NO_OPTIONS,
    ) -> health_pb2.HealthListResponse:
        """The status of each service that has one."""
        return await self._channel.unary(HEALTH_LIST, request, options)

    def watch(
        self,
        request: health_pb2.HealthCheckRequest,
        options: CallOptions = NO_OPTIONS,
    ) -> AbstractAsyncContextManager[ClientCall[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]]:
        """The status now and after each change. An unknown service is SERVICE_UNKNOWN, and the stream stays
        open.
        """
        return self._channel.ask(HEALTH_WATCH, request, options)
