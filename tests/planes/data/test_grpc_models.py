"""The model's name in the first bytes of a call, and how often it is looked for."""

from __future__ import annotations

import gzip
import zlib

import pytest

from infermesh.planes.data.grpc_models import (
    PEEK_BYTES_MAX,
    Unnamed,
    is_of_one_server,
    is_placement,
    name_path,
    next_look,
    read_model,
)

KSERVE = b"/inference.GRPCInferenceService/"


def message(body: bytes, length: int | None = None) -> bytes:
    return b"\x00" + (len(body) if length is None else length).to_bytes(4, "big") + body


def test_the_name_is_found_once_it_has_come_whole() -> None:
    data = message(b"\x10\x05\x0a\x05llama\x12\x011")
    assert [read_model(data[:size], (1,), None, whole=False) for size in (0, 4, 9, 13)] == [None] * 4
    assert read_model(data[:14], (1,), None, whole=False) == "llama"
    assert read_model(data, (1,), None, whole=True) == "llama"
    with pytest.raises(Unnamed):
        read_model(data[:13], (1,), None, whole=True)


def test_a_message_that_comes_byte_by_byte_is_looked_into_a_few_times_and_at_its_end() -> None:
    # Found by fuzzing: a look at 64 KiB costs 20 ms, and one at each byte of them ten minutes.
    for length in (0, 1, 100, 5_000, PEEK_BYTES_MAX, 1 << 20):
        data = message(b"\x10\x00" * (min(length, PEEK_BYTES_MAX) // 2 + 1), length)
        looks = []
        look_at = 0
        for size in range(1, len(data) + 1):
            if size >= look_at:
                looks.append(size)
                look_at = next_look(data[:size])
        assert len(looks) <= 22
        assert 5 + min(length, PEEK_BYTES_MAX) in looks


def test_services_say_where_they_name_the_model() -> None:
    assert name_path(KSERVE + b"ModelInfer") == (1,)
    assert name_path(KSERVE + b"ModelStreamInfer") == (1,)
    assert name_path(b"/tensorflow.serving.PredictionService/Predict") == (1, 1)
    assert name_path(b"/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions") == (1,)
    for path in (b"/grpc.health.v1.Health/Check", b"/inference.GRPCInferenceServiceX/ModelInfer", b"/", b"", b"x"):
        assert name_path(path) is None


def test_what_changes_a_runtime_or_concerns_one_server_is_known_by_its_path() -> None:
    assert is_placement(KSERVE + b"RepositoryModelLoad")
    assert is_placement(KSERVE + b"RepositoryModelUnload")
    assert is_placement(b"/tensorflow.serving.ModelService/HandleReloadConfigRequest")
    assert is_placement(b"/org.pytorch.serve.grpc.management.ManagementAPIsService/RegisterModel")
    assert not is_placement(KSERVE + b"RepositoryIndex")
    assert not is_placement(b"/tensorflow.serving.ModelService/GetModelStatus")
    for name in (b"SystemSharedMemoryStatus", b"CudaSharedMemoryRegister", b"TraceSetting", b"LogSettings"):
        assert is_of_one_server(KSERVE + name)
    assert not is_of_one_server(KSERVE + b"ModelStatistics")


def test_a_name_inside_a_message_inside_is_found() -> None:
    spec = b"\x1a\x01s\x0a\x05llama"
    data = message(b"\x08\x01" + b"\x0a" + bytes([len(spec)]) + spec + b"\x12\x00")
    assert read_model(data, (1, 1), None, whole=True) == "llama"


@pytest.mark.parametrize("field", [b"\x08\x96\x01", b"\x09" + bytes(8), b"\x0d" + bytes(4), b"\x12\x03abc"])
def test_fields_of_every_kind_may_stand_before_the_name(field: bytes) -> None:
    assert read_model(message(field + b"\x0a\x05llama"), (1,), None, whole=True) == "llama"


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_compressed_messages_are_looked_into(encoding: bytes) -> None:
    body = b"\x0a\x05llama" + bytes(100_000)
    packed = gzip.compress(body) if encoding == b"gzip" else zlib.compress(body)
    data = b"\x01" + len(packed).to_bytes(4, "big") + packed
    assert read_model(data, (1,), encoding, whole=True) == "llama"
    assert read_model(data[:60], (1,), encoding, whole=False) == "llama"


@pytest.mark.parametrize(
    ("data", "encoding", "words"),
    [
        (b"", None, "before its first message"),
        (b"\x00\x00\x00", None, "before its first message"),
        (message(b""), None, "names no model"),
        (message(b"\x0a\x00"), None, "names no model"),
        (message(b"\x12\x01x"), None, "names no model"),
        (message(b"\x0b"), None, "no protobuf: wire type 3"),
        (message(b"\xff" * 11), None, "more than ten bytes"),
        (message(b"\x0a" + b"\xff" * 11), None, "more than ten bytes"),
        (b"\x02" + message(b"\x0a\x01x")[1:], None, "flag 2"),
        (b"\x01" + message(b"\x0a\x01x")[1:], None, "compressed, and grpc-encoding is"),
        (b"\x01" + message(b"\x0a\x01x")[1:], b"snappy", "snappy"),
        (b"\x01" + message(b"not gzip")[1:], b"gzip", "does not decompress"),
        (message(b"\x12\x80\x80\x04" + bytes(PEEK_BYTES_MAX) + b"\x0a\x01x"), None, "names no model"),
    ],
)
def test_a_message_that_names_no_model_says_why(data: bytes, encoding: bytes | None, words: str) -> None:
    with pytest.raises(Unnamed, match=words):
        read_model(data, (1,), encoding, whole=True)


def test_a_bomb_is_inflated_no_further_than_it_is_looked_at() -> None:
    packed = zlib.compress(b"\x12\x80\x80\x80\x40" + bytes(1 << 26))
    assert len(packed) < 70_000
    with pytest.raises(Unnamed):
        read_model(b"\x01" + len(packed).to_bytes(4, "big") + packed, (1,), b"gzip", whole=True)


def test_a_name_that_is_no_text_is_one_that_nobody_serves() -> None:
    assert read_model(message(b"\x0a\x02\xff\xfe"), (1,), None, whole=True) == "\ufffd\ufffd"
