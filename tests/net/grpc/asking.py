"""The echo service behind a port and a channel of ours in front of it, in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
from google.protobuf.wrappers_pb2 import BytesValue

from infermesh.net.grpc.client import Channel, ChannelConfig
from infermesh.testing.grpc_echo import EchoService
from infermesh.testing.grpc_node import GrpcNode, NodeShape, grpc_node
from wire.grpc.service import Service


@dataclass
class Pair:
    channel: Channel
    node: GrpcNode
    echo: EchoService


@asynccontextmanager
async def pair(
    *more: Service,
    shape: NodeShape | None = None,
    config: ChannelConfig | None = None,
    only: Sequence[Service] = (),
) -> AsyncIterator[Pair]:
    """`more` beside the echo, or `only` those."""
    echo = EchoService()
    async with grpc_node(only or [echo, *more], shape or NodeShape()) as node:
        channel = Channel.to(node.address, node.running.reactor, node.running.timers, config=config)
        try:
            with trio.fail_after(20):
                yield Pair(channel, node, echo)
        finally:
            channel.close()


def value(data: bytes) -> BytesValue:
    return BytesValue(value=data)
