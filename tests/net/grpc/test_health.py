"""The standard health service."""

from __future__ import annotations

import pytest

from infermesh.net.grpc.health import HealthService
from tests.net.grpc.asking import pair
from wire.grpc import Code, RpcError
from wire.proto.grpc.health.v1.health_grpc import HealthStub
from wire.proto.grpc.health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


async def test_the_server_as_a_whole_serves_from_the_start() -> None:
    async with pair(HealthService()) as both:
        assert (await HealthStub(both.channel).check(HealthCheckRequest())).status == SERVING


async def test_a_service_that_nobody_spoke_of_is_not_found() -> None:
    async with pair(HealthService()) as both:
        with pytest.raises(RpcError, match="no health is kept of 'nope'") as failed:
            await HealthStub(both.channel).check(HealthCheckRequest(service="nope"))
    assert failed.value.code is Code.NOT_FOUND


async def test_a_status_is_what_was_set_last_and_all_can_be_listed() -> None:
    health = HealthService()
    async with pair(health) as both:
        stub = HealthStub(both.channel)
        health.set_serving("a.B")
        health.set_serving("a.C", serving=False)
        assert (await stub.check(HealthCheckRequest(service="a.C"))).status == NOT_SERVING
        listed = (await stub.list(HealthListRequest())).statuses
        assert {name: each.status for name, each in listed.items()} == {"": SERVING, "a.B": SERVING, "a.C": NOT_SERVING}


async def test_a_watcher_is_told_the_status_now_and_each_change_of_it() -> None:
    health = HealthService()
    async with pair(health) as both, HealthStub(both.channel).watch(HealthCheckRequest(service="a.B")) as watch:

        async def told() -> int:
            message = await watch.receive()
            assert message is not None
            return message.status

        assert await told() == SERVICE_UNKNOWN, "and the stream stays open"
        health.set_serving("a.B")
        assert await told() == SERVING
        health.set_serving("other")
        health.set_serving("a.B")
        health.set_serving("a.B", serving=False)
        assert await told() == NOT_SERVING, "what did not change is not told again"


async def test_after_shutting_down_nothing_serves_any_more() -> None:
    health = HealthService()
    health.set_serving("a.B")
    async with pair(health) as both, HealthStub(both.channel).watch(HealthCheckRequest(service="a.B")) as watch:
        await watch.receive()
        health.shut_down()
        message = await watch.receive()
        assert message is not None
        assert message.status == NOT_SERVING
        health.set_serving("a.B")
        assert (await HealthStub(both.channel).check(HealthCheckRequest())).status == NOT_SERVING
        assert (await HealthStub(both.channel).check(HealthCheckRequest(service="a.B"))).status == NOT_SERVING
