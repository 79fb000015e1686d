"""Methods as both sides know them."""

from __future__ import annotations

from wire.grpc.service import NO_OPTIONS, unimplemented
from wire.grpc.status import Code
from wire.proto.grpc.health.v1.health_grpc import HEALTH_CHECK, HEALTH_WATCH, HealthBase


def test_a_method_knows_its_service() -> None:
    assert HEALTH_CHECK.service == "grpc.health.v1.Health"
    assert not HEALTH_CHECK.server_streaming
    assert HEALTH_WATCH.server_streaming


def test_a_base_routes_each_method_to_itself() -> None:
    base = HealthBase()
    assert [route.method.path for route in base.routes()] == [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
    ]
    assert base.routes()[0].call == base.check


def test_what_is_left_out_is_unimplemented() -> None:
    error = unimplemented(HEALTH_CHECK)
    assert error.code is Code.UNIMPLEMENTED
    assert "/grpc.health.v1.Health/Check" in error.message


def test_a_call_has_no_deadline_unless_it_is_given_one() -> None:
    assert NO_OPTIONS.timeout_s > 1e300
