"""Services of infermesh/state/v1/state.proto: bases for servers, stubs for clients.

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
    Receiver,
    Sender,
    ServerContext,
    StreamStream,
    UnaryUnary,
    unimplemented,
)
from wire.proto.infermesh.state.v1 import state_pb2

STATE_SERVICE_REPORT_MODEL_STATE: Final = Method(
    "/infermesh.state.v1.StateService/ReportModelState",
    state_pb2.ModelState,
    state_pb2.StateAck,
    client_streaming=True,
    server_streaming=True,
)
STATE_SERVICE_REPORT_GPU_STATE: Final = Method(
    "/infermesh.state.v1.StateService/ReportGpuState",
    state_pb2.GpuState,
    state_pb2.StateAck,
    client_streaming=True,
    server_streaming=True,
)
STATE_SERVICE_SUBSCRIBE: Final = Method(
    "/infermesh.state.v1.StateService/Subscribe",
    state_pb2.SubscribeRequest,
    state_pb2.StateDelta,
    client_streaming=True,
    server_streaming=True,
)
STATE_SERVICE_PING: Final = Method(
    "/infermesh.state.v1.StateService/Ping",
    state_pb2.PingRequest,
    state_pb2.PingResponse,
)


class StateServiceBase:
    """What a server of infermesh.state.v1.StateService overrides; the rest answers UNIMPLEMENTED."""

    name: Final = "infermesh.state.v1.StateService"
    file: Final = state_pb2.DESCRIPTOR

    def routes(self) -> tuple[AnyRoute, ...]:
        return (
            StreamStream(STATE_SERVICE_REPORT_MODEL_STATE, self.report_model_state),
            StreamStream(STATE_SERVICE_REPORT_GPU_STATE, self.report_gpu_state),
            StreamStream(STATE_SERVICE_SUBSCRIBE, self.subscribe),
            UnaryUnary(STATE_SERVICE_PING, self.ping),
        )

    async def report_model_state(
        self,
        requests: Receiver[state_pb2.ModelState],
        responses: Sender[state_pb2.StateAck],
        context: ServerContext,
    ) -> None:
        """An adapter process reports to the meshd of its node."""
        raise unimplemented(STATE_SERVICE_REPORT_MODEL_STATE)

    async def report_gpu_state(
        self,
        requests: Receiver[state_pb2.GpuState],
        responses: Sender[state_pb2.StateAck],
        context: ServerContext,
    ) -> None:
        raise unimplemented(STATE_SERVICE_REPORT_GPU_STATE)

    async def subscribe(
        self,
        requests: Receiver[state_pb2.SubscribeRequest],
        responses: Sender[state_pb2.StateDelta],
        context: ServerContext,
    ) -> None:
        """A router listens to a GPU node. A slow listener gets the newest state of each model, not each in turn;
        one that was cut off goes on from the position that it had taken over.
        """
        raise unimplemented(STATE_SERVICE_SUBSCRIBE)

    def ping(
        self,
        request: state_pb2.PingRequest,
        context: ServerContext,
    ) -> Awaitable[state_pb2.PingResponse] | state_pb2.PingResponse:
        """Measures the round trip."""
        raise unimplemented(STATE_SERVICE_PING)


class StateServiceStub:
    """Calls infermesh.state.v1.StateService through a channel."""

    def __init__(self, channel: Caller) -> None:
        self._channel = channel

    def report_model_state(
        self,
        options: CallOptions = NO_OPTIONS,
    ) -> AbstractAsyncContextManager[ClientCall[state_pb2.ModelState, state_pb2.StateAck]]:
        """An adapter process reports to the meshd of its node."""
        return self._channel.stream(STATE_SERVICE_REPORT_MODEL_STATE, options)

    def report_gpu_state(
        self,
        options: CallOptions = NO_OPTIONS,
    ) -> AbstractAsyncContextManager[ClientCall[state_pb2.GpuState, state_pb2.StateAck]]:
        return self._channel.stream(STATE_SERVICE_REPORT_GPU_STATE, options)

    def subscribe(
        self,
        options: CallOptions = NO_OPTIONS,
    ) -> AbstractAsyncContextManager[ClientCall[state_pb2.SubscribeRequest, state_pb2.StateDelta]]:
        """A router listens to a GPU node. A slow listener gets the newest state of each model, not each in turn;
        one that was cut off goes on from the position that it had taken over.
        """
        return self._channel.stream(STATE_SERVICE_SUBSCRIBE, options)

    async def ping(
        self,
        request: state_pb2.PingRequest,
        options: CallOptions = NO_OPTIONS,
    ) -> state_pb2.PingResponse:
        """Measures the round trip."""
        return await self._channel.unary(STATE_SERVICE_PING, request, options)
