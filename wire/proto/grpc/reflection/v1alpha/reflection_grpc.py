"""Services of grpc/reflection/v1alpha/reflection.proto: bases for servers, stubs for clients.

Made by scripts/proto; do not edit.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final

from wire.grpc.service import (
    NO_OPTIONS,
    AnyRoute,
    Caller,
    CallOptions,
    ClientCall,
    Method,
    Receiver,
    Sender,
    ServerContext,
    StreamStream,
    unimplemented,
)
from wire.proto.grpc.reflection.v1alpha import reflection_pb2

SERVER_REFLECTION_SERVER_REFLECTION_INFO: Final = Method(
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    reflection_pb2.ServerReflectionRequest,
    reflection_pb2.ServerReflectionResponse,
    client_streaming=True,
    server_streaming=True,
)


class ServerReflectionBase:
    """What a server of grpc.reflection.v1alpha.ServerReflection overrides; the rest answers UNIMPLEMENTED."""

    name: Final = "grpc.reflection.v1alpha.ServerReflection"
    file: Final = reflection_pb2.DESCRIPTOR

    def routes(self) -> tuple[AnyRoute, ...]:
        return (StreamStream(SERVER_REFLECTION_SERVER_REFLECTION_INFO, self.server_reflection_info),)

    async def server_reflection_info(
        self,
        requests: Receiver[reflection_pb2.ServerReflectionRequest],
        responses: Sender[reflection_pb2.ServerReflectionResponse],
        context: ServerContext,
    ) -> None:
        """Each request is answered by one response, in order."""
        raise unimplemented(SERVER_REFLECTION_SERVER_REFLECTION_INFO)


class ServerReflectionStub:
    """Calls grpc.reflection.v1alpha.ServerReflection through a channel."""

    def __init__(self, channel: Caller) -> None:
        self._channel = channel

    def server_reflection_info(
        self,
        options: CallOptions = NO_OPTIONS,
    ) -> AbstractAsyncContextManager[
        ClientCall[reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse]
    ]:
        """Each request is answered by one response, in order."""
        return self._channel.stream(SERVER_REFLECTION_SERVER_REFLECTION_INFO, options)
