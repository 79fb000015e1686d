"""Server reflection in both versions: what is served can be learnt from the server alone."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from infermesh.net.grpc.health import HealthService
from infermesh.net.grpc.reflection import with_reflection
from tests.net.grpc.asking import pair
from wire.grpc import Code
from wire.proto.grpc.reflection.v1 import reflection_pb2 as v1
from wire.proto.grpc.reflection.v1.reflection_grpc import ServerReflectionStub
from wire.proto.grpc.reflection.v1alpha import reflection_pb2 as v1alpha
from wire.proto.grpc.reflection.v1alpha.reflection_grpc import ServerReflectionStub as AlphaStub
from wire.proto.infermesh.scoring.v1.scoring_grpc import ScoringServiceBase
from wire.proto.infermesh.state.v1.state_grpc import StateServiceBase

SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "infermesh.scoring.v1.ScoringService",
    "infermesh.state.v1.StateService",
]


async def asked(*requests: v1.ServerReflectionRequest) -> list[v1.ServerReflectionResponse]:
    services = with_reflection([HealthService(), ScoringServiceBase(), StateServiceBase()])
    async with pair(only=services) as both, ServerReflectionStub(both.channel).server_reflection_info() as call:
        for request in requests:
            await call.send(request)
        await call.finish_sending()
        return [response async for response in call]


def files(response: v1.ServerReflectionResponse) -> list[str]:
    found = response.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(each).name for each in found]


async def test_services_are_listed_and_reflection_among_them() -> None:
    request = v1.ServerReflectionRequest(host="h", list_services="*")
    (response,) = await asked(request)
    assert [service.name for service in response.list_services_response.service] == SERVICES
    assert response.valid_host == "h"
    assert response.original_request == request


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("grpc.health.v1.Health", "grpc/health/v1/health.proto"),
        ("grpc.health.v1.Health.Check", "grpc/health/v1/health.proto"),
        ("grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto"),
        ("infermesh.state.v1.StateDelta", "wire/proto/infermesh/state/v1/state.proto"),
        ("infermesh.scoring.v1.ScoringService", "wire/proto/infermesh/scoring/v1/scoring.proto"),
    ],
)
async def test_a_symbol_leads_to_its_file(symbol: str, file: str) -> None:
    (response,) = await asked(v1.ServerReflectionRequest(file_containing_symbol=symbol))
    assert files(response) == [file]


async def test_a_file_is_found_by_its_name() -> None:
    (response,) = await asked(v1.ServerReflectionRequest(file_by_filename="grpc/health/v1/health.proto"))
    assert files(response) == ["grpc/health/v1/health.proto"]


@pytest.mark.parametrize(
    "request_",
    [
        v1.ServerReflectionRequest(file_containing_symbol="no.such.Symbol"),
        v1.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health.Nope"),
        v1.ServerReflectionRequest(file_by_filename="no/such.proto"),
        v1.ServerReflectionRequest(file_by_filename="google/rpc/status.proto"),
        v1.ServerReflectionRequest(file_containing_symbol="google.rpc.Status"),
        v1.ServerReflectionRequest(all_extension_numbers_of_type="no.such.Type"),
        v1.ServerReflectionRequest(
            file_containing_extension=v1.ExtensionRequest(
                containing_type="grpc.health.v1.HealthCheckRequest", extension_number=7
            )
        ),
    ],
)
async def test_what_is_not_served_is_not_found_even_if_this_process_knows_it(
    request_: v1.ServerReflectionRequest,
) -> None:
    (response,) = await asked(request_)
    assert response.error_response.error_code == Code.NOT_FOUND


async def test_a_message_without_extensions_has_none() -> None:
    (response,) = await asked(
        v1.ServerReflectionRequest(all_extension_numbers_of_type="grpc.health.v1.HealthCheckRequest")
    )
    assert response.all_extension_numbers_response.base_type_name == "grpc.health.v1.HealthCheckRequest"
    assert list(response.all_extension_numbers_response.extension_number) == []


async def test_a_request_that_asks_nothing_is_told_so_and_the_stream_goes_on() -> None:
    empty, listed = await asked(v1.ServerReflectionRequest(), v1.ServerReflectionRequest(list_services=""))
    assert empty.error_response.error_code == Code.INVALID_ARGUMENT
    assert len(listed.list_services_response.service) == len(SERVICES)


async def test_v1alpha_answers_the_same() -> None:
    services = with_reflection([HealthService(), ScoringServiceBase(), StateServiceBase()])
    async with pair(only=services) as both, AlphaStub(both.channel).server_reflection_info() as call:
        await call.send(v1alpha.ServerReflectionRequest(list_services=""))
        response = await call.receive()
        assert response is not None
        assert [service.name for service in response.list_services_response.service] == SERVICES
