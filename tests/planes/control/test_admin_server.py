import io
import itertools
import json
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
import trio
from hypercorn.config import Config
from starlette.types import ASGIApp

from infermesh.core.model.names import NodeId, TargetKey
from infermesh.core.model.nodes import Address
from infermesh.core.model.targets import EMPTY_VIEW, RoutingView
from infermesh.net.listener import ListenFailed
from infermesh.observe.logs import configure_logs, get_logger
from infermesh.observe.metrics import Metrics
from infermesh.planes.control.admin import Json
from infermesh.planes.control.admin_server import AdminServing, Serve, run_hypercorn, serve_admin

LOOPBACK = Address("127.0.0.1", 0)
Lines = Callable[[], list[dict[str, object]]]


class Sources:
    me = "edge"

    def __init__(self) -> None:
        self.metrics = Metrics(NodeId("edge"), "0.1.0")
        self.shown: list[Json] = []

    def view(self) -> RoutingView:
        return EMPTY_VIEW

    def inflight(self, key: TargetKey) -> int:
        return 0

    def ready(self) -> tuple[bool, Sequence[str]]:
        return True, ()

    def score(self, model: str, prompt_tokens: int, output_tokens: int) -> Json | None:
        return None

    def explain(self, request_id: str) -> Json | None:
        raise RuntimeError("planted")

    def requests(self, limit: int) -> Sequence[Json]:
        return self.shown


@pytest.fixture
def lines() -> Iterator[Lines]:
    stream = io.StringIO()
    configure_logs("edge", "info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    configure_logs("", stream=sys.__stderr__, human=False)


async def start(
    nursery: trio.Nursery, sources: Sources, serving: AdminServing | None = None, serve: Serve | None = None
) -> tuple[str, int]:
    server = partial(serve_admin, LOOPBACK, sources, get_logger(), serving=serving, serve=serve)
    address: tuple[str, int] = await nursery.start(server)
    return address


async def exchange(address: tuple[str, int], request: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    answer = b""
    with trio.fail_after(10):
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(request)
            async for piece in stream:
                answer += piece
    return answer


def get(path: str, *, close: bool = True) -> bytes:
    connection = "close" if close else "keep-alive"
    return f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: {connection}\r\n\r\n".encode()


async def test_the_port_that_the_kernel_chose_is_reported_and_served(lines: Lines) -> None:
    async with trio.open_nursery() as nursery:
        address = await start(nursery, Sources())
        assert address[0] == "127.0.0.1"
        assert address[1] > 0
        answer = await exchange(address, get("/healthz", close=False) + get("/metrics"))
        nursery.cancel_scope.cancel()
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b'{"status":"ok"}' in answer
    assert b"infermesh_build_info" in answer
    assert b"server:" not in answer
    assert lines() == []


async def test_an_address_that_is_taken_is_said_before_anything_runs() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ListenFailed, match=f"127.0.0.1:{port}"):
            await serve_admin(Address("127.0.0.1", port), Sources(), get_logger())


async def test_a_fault_inside_the_server_is_logged_and_the_port_comes_back(lines: Lines) -> None:
    runs: list[int] = []

    async def fragile(app: ASGIApp, config: Config) -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise RuntimeError("planted inside")
        if len(runs) == 2:
            return
        if len(runs) == 3:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_hypercorn, app, config)
                nursery.start_soon(_raise_soon)
        await run_hypercorn(app, config)

    async def _raise_soon() -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("planted beside a running server")

    serving = AdminServing(restart_first_s=0.001, restart_longest_s=0.002)
    async with trio.open_nursery() as nursery:
        address = await start(nursery, Sources(), serving, fragile)
        answer = await exchange(address, get("/healthz"))  # Waits in the socket's queue until the fourth run.
        nursery.cancel_scope.cancel()
    assert answer.startswith(b"HTTP/1.1 200")
    assert len(runs) == 4
    first, second, third = lines()
    assert (first["event"], second["event"], third["event"]) == (
        "admin_server_failed",
        "admin_server_ended",
        "admin_server_failed",
    )
    assert "planted inside" in str(first["exception"])
    assert "planted beside a running server" in str(third["exception"])


async def test_a_restart_waits_longer_each_time_up_to_the_longest(
    autojump_clock: trio.testing.MockClock, lines: Lines
) -> None:
    began: list[float] = []

    async def broken(app: ASGIApp, config: Config) -> None:
        began.append(trio.current_time())
        raise RuntimeError("again")

    with trio.move_on_after(20):
        async with trio.open_nursery() as nursery:
            await start(nursery, Sources(), AdminServing(restart_first_s=1.0, restart_longest_s=5.0), broken)
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise(began)]
    assert gaps == [1, 2, 4, 5, 5]


async def test_a_fault_in_an_answer_is_a_500_and_a_log_line_with_its_traceback(lines: Lines) -> None:
    async with trio.open_nursery() as nursery:
        address = await start(nursery, Sources())
        answer = await exchange(address, get("/v1/explain/x"))
        assert (await exchange(address, get("/healthz"))).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()
    assert answer.startswith(b"HTTP/1.1 500")
    assert b'"code":"internal"' in answer
    [line] = lines()
    assert (line["event"], line["library"]) == ("library_message", "hypercorn.error")
    assert "planted" in str(line["exception"])


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 20_000, b"HTTP/1.1 431"),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n", b"HTTP/1.1 413"),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", b"HTTP/1.1 414"),
    ],
    ids=["garbage", "head too large", "body too large", "path too long"],
)
async def test_bad_requests_get_their_answer_and_a_closed_connection(
    lines: Lines, request_bytes: bytes, status: bytes
) -> None:
    async with trio.open_nursery() as nursery:
        address = await start(nursery, Sources())
        assert (await exchange(address, request_bytes)).startswith(status)
        assert (await exchange(address, get("/healthz"))).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()


async def test_a_client_that_says_nothing_is_let_go(lines: Lines) -> None:
    async with trio.open_nursery() as nursery:
        address = await start(nursery, Sources(), AdminServing(idle_timeout_s=0.05))
        assert await exchange(address, b"") == b""
        assert await exchange(address, b"GET / HT") == b""
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_reader_that_stops_reading_does_not_hold_up_the_end(lines: Lines) -> None:
    """hypercorn sends under a shield, which no cancellation passes: only the kernel can end that send."""
    sources = Sources()
    sources.shown = [{"text": "x" * 1000}] * 20_000  # More than all socket buffers take.
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            address = await start(nursery, sources, AdminServing(stalled_reader_s=1.0))
            with socket.socket() as raw:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                raw.connect(address)
                raw.sendall(get("/v1/requests"))
                peeked = await trio.to_thread.run_sync(raw.recv, 12)
                assert peeked == b"HTTP/1.1 200"
                began = trio.current_time()
                nursery.cancel_scope.cancel()
                await _until_empty(nursery)
    assert trio.current_time() - began < 10.0


async def _until_empty(nursery: trio.Nursery) -> None:
    """While the reader holds its socket open: closing it would end the send, too."""
    with trio.CancelScope(shield=True):
        while nursery.child_tasks:
            await trio.sleep(0.02)


async def test_cancelling_while_requests_run_leaves_no_socket_open(lines: Lines) -> None:
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            address = await start(nursery, Sources())
            stream = await trio.open_tcp_stream(*address)
            await stream.send_all(get("/healthz", close=False))
            assert (await stream.receive_some(12)) == b"HTTP/1.1 200"
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            while await stream.receive_some(4096):
                pass
        await stream.aclose()
        with pytest.raises(OSError, match=r"(?i)refused|failed to connect|connect"):
            await trio.open_tcp_stream(*address)
        outer.cancel_scope.cancel()
