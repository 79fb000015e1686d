"""The echo service routes every method that it names, each of the kind that its name stands for."""

from __future__ import annotations

from infermesh.testing import grpc_echo
from infermesh.testing.grpc_echo import EchoService
from wire.grpc.service import Method, StreamStream, StreamUnary, UnaryStream, UnaryUnary


def test_every_method_has_a_route_of_its_kind() -> None:
    kinds = {
        (False, False): UnaryUnary,
        (False, True): UnaryStream,
        (True, False): StreamUnary,
        (True, True): StreamStream,
    }
    routes = EchoService().routes()
    for route in routes:
        assert isinstance(route, kinds[route.method.client_streaming, route.method.server_streaming])
    named = {each.path for each in vars(grpc_echo).values() if isinstance(each, Method)}
    assert {route.method.path for route in routes} == named
