"""Which model a gRPC call is for, read from the call's first bytes; nothing else of its messages is looked at.

Inference services name the model at the beginning of their first message (protobuf serialisers write fields in the
order of their numbers, and it is number 1 in all of them). Any other service is served as well when its metadata names
the model: `x-infermesh-model`.

A message that names two models, which no serialiser writes, goes to the first and says the last to its runtime: that
gains nothing, since a node's runtimes may be asked for any of their models anyway.

https://protobuf.dev/programming-guides/encoding/, grpc/grpc doc/PROTOCOL-HTTP2.md "Length-Prefixed-Message".
"""

from __future__ import annotations

import zlib
from typing import Final

KSERVE_SERVICE: Final = b"/inference.GRPCInferenceService/"
# The numbers of the fields that lead to the name, by service; KServe's, Triton's extensions among them, first.
_NAME_AT: Final = {
    KSERVE_SERVICE: (1,),
    b"/tensorflow.serving.PredictionService/": (1, 1),
    b"/tensorflow.serving.ModelService/": (1, 1),
    b"/org.pytorch.serve.grpc.inference.InferenceAPIsService/": (1,),
}
# What would change a runtime behind the mesh's back, whichever model the call names.
_PLACEMENT: Final = frozenset(
    {
        KSERVE_SERVICE + b"RepositoryModelLoad",
        KSERVE_SERVICE + b"RepositoryModelUnload",
        b"/tensorflow.serving.ModelService/HandleReloadConfigRequest",
    }
)
_PLACEMENT_SERVICE: Final = b"/org.pytorch.serve.grpc.management.ManagementAPIsService/"
# Of a server and not of a model, and of no use across a mesh.
_ONE_SERVER: Final = tuple(
    KSERVE_SERVICE + name for name in (b"SystemSharedMemory", b"CudaSharedMemory", b"TraceSetting", b"LogSettings")
)
# The name stands within so many bytes of the first message, or it is not looked for any further.
PEEK_BYTES_MAX: Final = 65_536
_PREFIX_BYTES: Final = 5
_VARINT_BYTES_MAX: Final = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Unnamed(Exception):
    """The first message names no model, or is none. `str()` says why."""


def name_path(path: bytes) -> tuple[int, ...] | None:
    """Where the messages of a method say which model is meant; None: only metadata can say so."""
    service = path[: path.rfind(b"/") + 1]
    return _NAME_AT.get(service)


def is_placement(path: bytes) -> bool:
    """Whether a method loads or unloads models."""
    return path in _PLACEMENT or path.startswith(_PLACEMENT_SERVICE)


def is_of_one_server(path: bytes) -> bool:
    """Whether a method is about the one server that takes it: its shared memory, its logs."""
    return path.startswith(_ONE_SERVER)


def read_model(data: bytes, at: tuple[int, ...], encoding: bytes | None, *, whole: bool) -> str | None:
    """The model named in the first message, of which `data` has come; None: more must come first.

    `encoding`: of compressed messages (`grpc-encoding`). `whole`: nothing more will come. Raises Unnamed.
    """
    if len(data) < _PREFIX_BYTES:
        if whole:
            raise Unnamed("the call ended before its first message, which names the model")
        return None
    length = int.from_bytes(data[1:_PREFIX_BYTES], "big")
    message = data[_PREFIX_BYTES : _PREFIX_BYTES + min(length, PEEK_BYTES_MAX)]
    exhausted = whole or len(message) == min(length, PEEK_BYTES_MAX)
    if data[0] == 1:
        message = _inflated(message, encoding)
    elif data[0]:
        raise Unnamed(f"the first message has flag {data[0]}; gRPC knows 0 and 1")
    found = _find(message, at)
    if not found and (exhausted or found is not None):
        raise Unnamed("the first message names no model")
    return None if found is None else found.decode("utf-8", "replace")


def next_look(data: bytes) -> int:
    """How much must have come before `read_model` is worth another try: twice as much, or all that it looks at.

    Each try reads from the beginning. At every byte of 64 KiB that come one by one, it would be minutes of CPU time.
    """
    if len(data) < _PREFIX_BYTES:
        return _PREFIX_BYTES
    length = int.from_bytes(data[1:_PREFIX_BYTES], "big")
    return min(2 * len(data), _PREFIX_BYTES + min(length, PEEK_BYTES_MAX))


def _inflated(message: bytes, encoding: bytes | None) -> bytes:
    if encoding not in (b"gzip", b"deflate"):
        raise Unnamed(f"the first message is compressed, and grpc-encoding is {(encoding or b'').decode('latin-1')!r}")
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # Either header.
    try:
        return inflater.decompress(message, PEEK_BYTES_MAX)
    except zlib.error as error:
        raise Unnamed(f"the first message does not decompress: {error}") from error


def _find(message: bytes, at: tuple[int, ...]) -> bytes | None:
    """The bytes of the field at the end of the path; None where they have not come, or are not there."""
    position, size, wanted = 0, len(message), at[0]
    while position < size:
        tag, position = _varint(message, position)
        if position < 0:
            return None
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            length, position = _varint(message, position)
            if position < 0:
                return None
            if number == wanted:
                inner = message[position : position + length]
                if len(at) > 1:
                    return _find(inner, at[1:])
                return inner if len(inner) == length else None
            position += length
        elif kind == _VARINT:
            _, position = _varint(message, position)
            if position < 0:
                return None
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise Unnamed(f"the first message is no protobuf: wire type {kind}")
    return None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """(value, position behind it); a position of -1 when it has not come whole. Raises Unnamed for an endless one."""
    value = shift = 0
    for byte in data[position : position + _VARINT_BYTES_MAX]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    if shift == 7 * _VARINT_BYTES_MAX:
        raise Unnamed("the first message is no protobuf: a number of more than ten bytes")
    return 0, -1
