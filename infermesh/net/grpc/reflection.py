"""Server reflection, v1 and v1alpha: what tools such as grpcurl ask to learn what is served and in which messages.

Answers from the files of the services and what those import, and from nothing else that this process may know. The two
versions differ in their name alone, so v1alpha is v1 read anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool

from wire.grpc import Code, RpcError
from wire.grpc.service import Receiver, Sender, ServerContext, Service
from wire.proto.grpc.reflection.v1 import reflection_grpc as v1_grpc
from wire.proto.grpc.reflection.v1 import reflection_pb2 as v1
from wire.proto.grpc.reflection.v1alpha import reflection_grpc as v1alpha_grpc
from wire.proto.grpc.reflection.v1alpha import reflection_pb2 as v1alpha


def with_reflection(services: Sequence[Service]) -> list[Service]:
    """`services`, and reflection of them and of itself in both versions."""
    index = _Index()
    reflections: list[Service] = [ReflectionService(index), ReflectionServiceAlpha(index)]
    whole = [*services, *reflections]
    index.fill(whole)
    return whole


class _Index:
    """What may be told, by name."""

    def __init__(self) -> None:
        self._services: tuple[str, ...] = ()
        self._files: dict[str, FileDescriptor] = {}

    def fill(self, services: Sequence[Service]) -> None:
        self._services = tuple(sorted(service.name for service in services))
        for service in services:
            self._add(service.file)

    def answer(self, request: v1.ServerReflectionRequest, sent: set[str]) -> v1.ServerReflectionResponse:
        """`sent`: names of files that this stream has had already; added to."""
        response = v1.ServerReflectionResponse(valid_host=request.host, original_request=request)
        try:
            self._fill_in(response, request, sent)
        except KeyError as error:
            response.error_response.error_code = Code.NOT_FOUND
            response.error_response.error_message = f"not found: {error.args[0] if error.args else ''}"
        except RpcError as error:
            response.error_response.error_code = error.code
            response.error_response.error_message = error.message
        return response

    def _fill_in(
        self, response: v1.ServerReflectionResponse, request: v1.ServerReflectionRequest, sent: set[str]
    ) -> None:
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            listed = [v1.ServiceResponse(name=name) for name in self._services]
            response.list_services_response.service.extend(listed)
        elif kind == "file_by_filename":
            self._describe(response, self._files[request.file_by_filename], sent)
        elif kind == "file_containing_symbol":
            self._describe(response, self._file_of(request.file_containing_symbol), sent)
        elif kind == "file_containing_extension":
            wanted = request.file_containing_extension
            pool = self._pool_of(wanted.containing_type)
            extended = pool.FindMessageTypeByName(wanted.containing_type)
            extension = pool.FindExtensionByNumber(extended, wanted.extension_number)
            self._describe(response, self._file_of(extension.full_name), sent)
        elif kind == "all_extension_numbers_of_type":
            name = request.all_extension_numbers_of_type
            pool = self._pool_of(name)
            extended = pool.FindMessageTypeByName(name)
            numbers = response.all_extension_numbers_response
            numbers.base_type_name = name
            numbers.extension_number.extend(
                sorted(each.number for each in pool.FindAllExtensions(extended) if self._holds(each.full_name))
            )
        else:
            raise RpcError(Code.INVALID_ARGUMENT, "the request asks nothing: none of its fields is set")

    def _file_of(self, symbol: str) -> FileDescriptor:
        pools = {id(file.pool): file.pool for file in self._files.values()}
        # A method is found by its service.
        for name in (symbol, symbol.rpartition(".")[0]):
            for pool in pools.values():
                try:
                    found = pool.FindFileContainingSymbol(name)
                except KeyError:
                    continue
                if found.name in self._files and (name == symbol or _has_method(found, symbol)):
                    return found
        raise KeyError(symbol)

    def _holds(self, symbol: str) -> bool:
        try:
            self._file_of(symbol)
        except KeyError:
            return False
        return True

    def _pool_of(self, symbol: str) -> DescriptorPool:
        return self._file_of(symbol).pool

    def _describe(self, response: v1.ServerReflectionResponse, file: FileDescriptor, sent: set[str]) -> None:
        """The file asked for, always, and of what it imports the files that this stream has not had."""
        described = response.file_descriptor_response.file_descriptor_proto
        described.append(file.serialized_pb)
        sent.add(file.name)
        waiting = list(file.dependencies)
        while waiting:
            imported = waiting.pop(0)
            if imported.name not in sent:
                sent.add(imported.name)
                described.append(imported.serialized_pb)
                waiting += imported.dependencies

    def _add(self, file: FileDescriptor) -> None:
        if file.name not in self._files:
            self._files[file.name] = file
            for imported in file.dependencies:
                self._add(imported)


def _has_method(file: FileDescriptor, symbol: str) -> bool:
    service, _, method = symbol.rpartition(".")
    return any(method in each.methods_by_name for each in file.services_by_name.values() if each.full_name == service)


class ReflectionService(v1_grpc.ServerReflectionBase):
    def __init__(self, index: _Index) -> None:
        self._index = index

    async def server_reflection_info(
        self,
        requests: Receiver[v1.ServerReflectionRequest],
        responses: Sender[v1.ServerReflectionResponse],
        context: ServerContext,
    ) -> None:
        sent: set[str] = set()
        async for request in requests:
            await responses.send(self._index.answer(request, sent))


class ReflectionServiceAlpha(v1alpha_grpc.ServerReflectionBase):
    def __init__(self, index: _Index) -> None:
        self._index = index

    async def server_reflection_info(
        self,
        requests: Receiver[v1alpha.ServerReflectionRequest],
        responses: Sender[v1alpha.ServerReflectionResponse],
        context: ServerContext,
    ) -> None:
        sent: set[str] = set()
        async for request in requests:
            answer = self._index.answer(v1.ServerReflectionRequest.FromString(request.SerializeToString()), sent)
            await responses.send(v1alpha.ServerReflectionResponse.FromString(answer.SerializeToString()))
