"""The fake backend of the bench, as grpcio and raw frames see it: a yardstick that is wrong measures nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import grpc
import pytest

from tests.bench.dataplane import processes
from tests.bench.grpc import echo, frames
from tests.bench.grpc.passthrough import SERVICE, Backend

pytestmark = pytest.mark.slow

MODEL = b"tiny"
TIMEOUT_S = 10


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    backend = Backend(processes.cores()[1])
    yield backend
    backend.close()


@pytest.fixture
def channel(backend: Backend) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{backend.grpc_port}") as channel:
        yield channel


def _stream(channel: grpc.Channel, tokens: int) -> list[bytes]:
    request = frames.infer_request(MODEL, tokens=tokens)[5:]
    call = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(iter([request]), timeout=TIMEOUT_S)
    return list(call)


def test_unary_calls_are_answered_on_one_connection_and_counted(backend: Backend, channel: grpc.Channel) -> None:
    before = backend.counts()["calls"]
    for _ in range(3):
        answer = channel.unary_unary(f"{SERVICE}/ModelInfer")(frames.infer_request(MODEL)[5:], timeout=TIMEOUT_S)
        assert answer == frames.UNARY_MESSAGE[5:]
    assert backend.counts()["calls"] == before + 3


@pytest.mark.parametrize("tokens", [1, 100, 3000])
def test_a_stream_has_as_many_messages_as_were_asked_for(backend: Backend, channel: grpc.Channel, tokens: int) -> None:
    before = backend.counts()["messages"]
    assert _stream(channel, tokens) == [frames.TOKEN_MESSAGE[5:]] * tokens
    assert backend.counts()["messages"] == before + tokens


def test_a_paced_stream_is_whole(backend: Backend, channel: grpc.Channel) -> None:
    backend.pace(500)
    assert len(_stream(channel, 50)) == 50
    backend.pace(0)


def test_messages_have_the_sizes_that_the_figures_are_told_for() -> None:
    assert len(frames.infer_request(MODEL)) == 1024
    assert len(frames.UNARY_MESSAGE) == pytest.approx(1024, abs=8)
    assert len(frames.TOKEN_MESSAGE) == pytest.approx(200, abs=8)
    assert echo.wrapped(b"ab") == b"\0\0\0\0\x04\n\x02ab"


def test_a_client_that_speaks_no_http2_is_let_go(backend: Backend) -> None:
    with socket.create_connection(("127.0.0.1", backend.grpc_port), timeout=TIMEOUT_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + b" " * 64)
        while client.recv(4096):
            pass


def test_the_page_that_says_ready_is_there(backend: Backend) -> None:
    with socket.create_connection(("127.0.0.1", backend.http_port), timeout=TIMEOUT_S) as client:
        client.sendall(b"GET /v2/models/tiny/ready HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
