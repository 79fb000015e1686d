"""The load side against itself, and against backends and routers that do wrong."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.bench.dataplane.backend import Fleet, Listener, Pages
from tests.bench.dataplane.client import StreamReader, Tally
from tests.bench.dataplane.load import Order, run_stream, run_unary
from tests.bench.dataplane.loop import Loop
from tests.bench.dataplane.messages import STREAM_HEAD, UNARY_RESPONSE

pytestmark = pytest.mark.slow


def order(kind: str, port: int, *, connections: int = 4, rate: float = 0.0, end_timeout_s: float = 5.0) -> Order:
    return Order(
        kind=kind,
        port=port,
        pid=0,
        admin_port=0,
        connections=connections,
        rate=rate,
        warm_s=0.05,
        measure_s=0.1,
        end_timeout_s=end_timeout_s,
    )


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def fleet(loop: Loop) -> Fleet:
    return Fleet(loop)


@pytest.fixture
def port(loop: Loop, fleet: Fleet) -> int:
    return Listener(loop, fleet, Pages(b"")).port


def test_a_closed_loop_of_unary_requests_has_no_errors(loop: Loop, port: int) -> None:
    result = run_unary(loop, order("unary", port))
    assert (result.errors, result.first_error) == (0, "")
    assert result.requests > 10
    assert 0 < result.latency_p50_ms <= result.latency_p99_ms


def test_paced_requests_come_at_their_rate(loop: Loop, port: int) -> None:
    result = run_unary(loop, order("unary", port, rate=1000))
    assert result.errors == 0
    # A closed loop would make tens of thousands; a crowded machine may make fewer than were asked for.
    assert 100 < result.requests / result.seconds < 5000


@pytest.mark.parametrize("rate", [0.0, 100.0])
def test_streams_deliver_exactly_what_the_backend_sent(loop: Loop, fleet: Fleet, port: int, rate: float) -> None:
    result = run_stream(loop, fleet, order("stream", port, rate=rate))
    assert (result.errors, result.first_error) == (0, "")
    assert result.events > 10
    assert fleet.streams == {}


def broken_router(answer: bytes) -> int:
    """A server that answers each connection's first bytes with these and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            for _ in range(4):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (UNARY_RESPONSE.replace(b"200 OK", b"503 No"), "503 No"),
        (UNARY_RESPONSE[:-10], "closed by the router"),
        (b"garbage", "garbage"),
    ],
)
def test_a_wrong_unary_answer_is_an_error(loop: Loop, answer: bytes, complaint: str) -> None:
    result = run_unary(loop, order("unary", broken_router(answer)))
    assert result.errors >= 4
    assert complaint in result.first_error


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n", "429"),
        (STREAM_HEAD, "closed by the router after 0 events"),
        (STREAM_HEAD + b"8\r\ndata: ~\n\r\n", "closed by the router after 1 events"),
    ],
)
def test_a_wrong_stream_is_an_error(loop: Loop, fleet: Fleet, answer: bytes, complaint: str) -> None:
    result = run_stream(loop, fleet, order("stream", broken_router(answer), rate=10))
    assert result.errors >= 4
    assert complaint in result.first_error


def tampering_router(backend_port: int, tamper: Callable[[bytes], bytes], connections: int) -> int:
    """A relay for this many connections, one thread per direction, that changes what comes back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes]) -> None:
        with contextlib.suppress(OSError):  # The other side may be gone already.
            while data := source.recv(65536):
                sink.sendall(change(data))
            sink.shutdown(socket.SHUT_WR)

    def relay(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", backend_port)) as upstream:
            forth = threading.Thread(target=pump, args=(client, upstream, bytes))
            forth.start()
            pump(upstream, client, tamper)
            forth.join()

    def accept() -> None:
        with listener:
            for _ in range(connections):
                client, _ = listener.accept()
                threading.Thread(target=relay, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def test_a_relay_that_changes_a_byte_of_a_stream_is_caught(loop: Loop, fleet: Fleet, port: int) -> None:
    router = tampering_router(port, lambda data: data.replace(b"tok", b"tik"), 4)
    result = run_stream(loop, fleet, order("stream", router, rate=50))
    assert "body differs from what the backend sent" in result.first_error


def test_a_relay_that_drops_the_end_of_a_stream_is_caught(loop: Loop, fleet: Fleet, port: int) -> None:
    router = tampering_router(port, lambda data: data.replace(b"[DONE]", b"[GONE]"), 1)
    result = run_stream(loop, fleet, order("stream", router, connections=1, rate=50, end_timeout_s=0.1))
    assert result.errors


def test_a_hedged_stream_ends_whole_whichever_backend_wins(loop: Loop, fleet: Fleet, port: int) -> None:
    first, second = (StreamReader(loop, port, "s0", Tally(), fleet, credit=False) for _ in range(2))
    assert loop.run_until(lambda: first.seen == second.seen == 1, 5)
    second.close()
    assert loop.run_until(lambda: len(fleet.streams["s0"]) == 1, 5)
    fleet.release("s0", 3)
    assert loop.run_until(lambda: first.seen == 4, 5)
    assert fleet.finish_all() == {"s0": [4]}
