"""The harness of gRPC tests shows what it promises: a served port, what was seen of it, and nothing left behind."""

from __future__ import annotations

import pytest
import trio

from infermesh.net.grpc.client import Channel
from infermesh.testing.grpc_echo import CRASH, SAY, EchoService
from infermesh.testing.grpc_node import grpc_node
from wire.grpc import Code, RpcError


async def test_a_node_serves_at_its_address_and_keeps_what_it_saw() -> None:
    async with grpc_node([EchoService()]) as node:
        channel = Channel.to(node.address, node.running.reactor, node.running.timers)
        with trio.fail_after(10):
            assert (await channel.unary(SAY, SAY.request(value=b"hi"))).value == b"hi"
            with pytest.raises(RpcError):
                await channel.unary(CRASH, CRASH.request())
        channel.close()
        assert node.ended == [("/infermesh.testing.Echo/Say", Code.OK), ("/infermesh.testing.Echo/Crash", Code.UNKNOWN)]
        assert node.log.names() == ["grpc_method_crashed"]
        assert node.faults == []
        assert node.target == f"{node.address[0]}:{node.address[1]}"
    assert node.connections == []
