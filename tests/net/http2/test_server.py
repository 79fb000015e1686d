"""The serving side against somebody else's client (the h2 package): answers, limits, and how connections end."""

from __future__ import annotations

import socket
import ssl

import h2.errors
import h2.settings
import pytest
import trio
import trustme

from infermesh.net.body_budget import BodyBudget
from infermesh.net.http1 import Request, ServerLimits
from infermesh.net.http2 import Http2ServerStream
from infermesh.testing.h2_peer import H2Client
from tests.net.http2.raw_client import RawClient
from tests.net.http2.serving import hello, serving
from tests.wire.http2.raw_peer import ACK, DATA, END_STREAM, GOAWAY, HEADERS, PING, POST, frame, head
from wire.http1 import parse_request_head
from wire.http2.config import Http2Config, Role
from wire.limits import HTTP1_TARGET_BYTES_MAX

NO_ERROR = h2.errors.ErrorCodes.NO_ERROR


async def test_requests_are_answered_over_one_connection() -> None:
    async with serving() as served, await H2Client.dial(served.address) as client:
        first = await client.fetch("GET", "/")
        second = await client.fetch("POST", "/echo", b"a body")
        third = await client.fetch("POST", "/slow", b"a body")
        assert (first.status, first.headers["content-length"], bytes(first.body)) == (200, "5", b"hello")
        assert (second.status, bytes(second.body)) == (200, b"a body")
        assert bytes(third.body) == b"slowly"
        assert len(served.connections) == 1


async def test_a_head_looks_like_one_of_http1() -> None:
    requests: list[Request] = []

    def answer(stream: Http2ServerStream, request: Request) -> None:
        requests.append(request)
        stream.respond(204, [])

    async with serving(answer) as served, await H2Client.dial(served.address) as client:
        await client.fetch("POST", "/path?query", b"body", headers=[("cookie", "a=1"), ("x-b", "2"), ("cookie", "c=3")])
        head = requests[0].head
        assert (head.method, head.target, head.path, head.host) == (b"POST", b"/path?query", b"/path", b"test")
        assert (head.framing, head.keep_alive, head.minor) == (-1, True, 1)
        assert head.fields == [(b"host", b"test"), (b"cookie", b"a=1; c=3"), (b"x-b", b"2")]
        assert head.lines == []  # Whoever writes HTTP/1.1 makes them of the fields.
        await client.fetch("POST", "/", b"body", headers=[("content-length", "4")])
        await client.fetch("GET", "/")
        assert [request.head.framing for request in requests] == [-1, 4, 0]


async def test_a_head_request_gets_a_length_and_no_body() -> None:
    async with serving() as served, await H2Client.dial(served.address) as client:
        answer = await client.fetch("HEAD", "/")
        assert (answer.headers["content-length"], bytes(answer.body), answer.ended) == ("5", b"", True)


@pytest.mark.slow
async def test_a_large_body_both_ways_comes_back_as_it_was() -> None:
    body = bytes(range(256)) * 8_192  # 2 MiB: many windows.
    async with serving() as served, await H2Client.dial(served.address) as client:
        assert bytes((await client.fetch("POST", "/echo", body)).body) == body


async def test_a_hundred_streams_at_once_are_all_answered() -> None:
    async with serving() as served, await H2Client.dial(served.address) as client:
        asked = [await client.ask("POST", "/slow" if number % 2 else "/echo", b"x") for number in range(100)]
        for stream_id in asked:
            assert (await client.answer(stream_id)).status == 200


async def test_over_tls_it_is_chosen_by_alpn() -> None:
    authority = trustme.CA()
    server, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client_side)
    server.set_alpn_protocols(["h2"])
    client_side.set_alpn_protocols(["h2"])
    body = bytes(1_000_000)
    async with serving(tls=server) as served, await H2Client.dial(served.address, tls=client_side) as client:
        assert isinstance(client.stream, trio.SSLStream)
        assert client.stream.selected_alpn_protocol() == "h2"
        assert bytes((await client.fetch("POST", "/echo", body)).body) == body


async def test_a_client_that_waits_to_be_invited_is() -> None:
    async with serving() as served, await H2Client.dial(served.address) as client:
        stream_id = await client.ask("POST", "/echo", headers=[("expect", "100-continue")], end=False)
        stream = client.of(stream_id)
        await client.read_until(lambda: bool(stream.interim))
        assert stream.interim[0][":status"] == "100"
        await client.send_data(stream_id, b"body", end=True)
        assert bytes((await client.answer(stream_id)).body) == b"body"
        assert (await client.fetch("POST", "/", headers=[("expect", "a miracle")])).status == 417
        assert served.faults == ["expectation"]


# --- limits ---


async def test_a_body_that_states_a_length_beyond_the_limit_is_refused_at_its_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("infermesh.net.http2.server.LINGER_S", 0.05)
    async with serving(limits=ServerLimits(body_bytes_max=10)) as served, await H2Client.dial(served.address) as client:
        stream_id = await client.ask("POST", "/echo", headers=[("content-length", "11")], end=False)
        answer = await client.answer(stream_id)
        assert answer.status == 413
        assert served.faults == ["body_oversized"]
        # The rest is not wanted, and the client is told so without an error.
        resets = [answer.reset]
        await client.read_until(lambda: answer.reset is not None)
        assert [*resets, answer.reset] == [None, NO_ERROR]
        assert bytes((await client.fetch("POST", "/echo", b"0123456789")).body) == b"0123456789"


async def test_a_body_that_grows_beyond_the_limit_is_refused() -> None:
    async with serving(limits=ServerLimits(body_bytes_max=10)) as served, await H2Client.dial(served.address) as client:
        assert (await client.answer(await client.ask("POST", "/echo", b"01234567890", end=False))).status == 413


async def test_bodies_under_way_are_bounded_together() -> None:
    async with serving(limits=ServerLimits(body_bytes_max=10)) as served, await H2Client.dial(served.address) as client:
        asked = [await client.ask("POST", "/echo", b"0123456789", end=False) for _ in range(5)]
        refused = await client.answer(asked[4])
        assert (refused.status, served.faults) == (503, ["bodies_in_flight"])
        for stream_id in asked[:4]:
            await client.send_data(stream_id, b"", end=True)
            assert bytes((await client.answer(stream_id)).body) == b"0123456789"
        assert served.connections[0].collected_bytes == 0


async def test_bodies_of_all_connections_are_bounded_together_until_they_are_answered() -> None:
    limits = ServerLimits(bodies=BodyBudget(1000))
    async with serving(limits=limits) as served, await H2Client.dial(served.address) as other:
        one = await other.ask("POST", "/echo", bytes(600), end=False)
        await served.wait_until(lambda: limits.bodies.held_bytes == 600)
        async with await H2Client.dial(served.address) as client:
            refused = await client.fetch("POST", "/echo", bytes(401))
            assert (refused.status, served.faults) == (503, ["bodies_in_flight"])
            assert (await client.fetch("POST", "/echo", bytes(400))).status == 200
            lost = await client.ask("POST", "/echo", bytes(400), end=False)
            await served.wait_until(lambda: limits.bodies.held_bytes == 1000)
            await client.reset(lost)
            await served.wait_until(lambda: limits.bodies.held_bytes == 600)
        await other.send_data(one, b"", end=True)
        assert (await other.answer(one)).status == 200
        await served.wait_until(lambda: limits.bodies.held_bytes == 0)


@pytest.mark.parametrize(("size", "status"), [(HTTP1_TARGET_BYTES_MAX, 200), (HTTP1_TARGET_BYTES_MAX + 1, 414)])
async def test_the_length_of_a_target_is_limited(size: int, status: int) -> None:
    async with serving() as served, await H2Client.dial(served.address) as client:
        assert (await client.fetch("GET", "/".ljust(size, "x"))).status == status


async def test_a_body_that_comes_too_slowly_is_refused() -> None:
    limits = ServerLimits(body_timeout_s=0.05, body_rate_min=1e6)
    async with serving(limits=limits) as served, await H2Client.dial(served.address) as client:
        answer = await client.answer(await client.ask("POST", "/echo", b"begun", end=False))
        assert (answer.status, served.faults) == (408, ["body_timed_out"])
        assert (await client.fetch("GET", "/")).status == 200


async def test_each_byte_of_a_body_buys_time() -> None:
    limits = ServerLimits(body_timeout_s=0.02, body_rate_min=100.0)
    async with serving(limits=limits) as served, await H2Client.dial(served.address) as client:
        stream_id = await client.ask("POST", "/echo", b"x" * 20, end=False)
        await trio.sleep(0.1)  # Of the 0.22 s that 20 bytes buy.
        await client.send_data(stream_id, b"y", end=True)
        assert (await client.answer(stream_id)).status == 200


async def test_a_client_that_opens_no_window_loses_its_stream_and_no_other() -> None:
    config = Http2Config(role=Role.SERVER, stalled_s=0.05)
    async with serving(config=config) as served, await H2Client.dial(served.address, credits=False) as client:
        stalled = await client.answer(await client.ask("GET", "/big?200000"))
        assert stalled.reset == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        assert len(stalled.body) == 65_535
        client.machine.acknowledge_received_data(65_535, 1)
        assert (await client.fetch("GET", "/")).status == 200


async def test_a_client_that_takes_no_output_is_cut_off() -> None:
    limits = ServerLimits(send_timeout_s=0.05)
    async with serving(limits=limits) as served:
        windows = {int(h2.settings.SettingCodes.INITIAL_WINDOW_SIZE): (1 << 31) - 1}
        async with await H2Client.dial(served.address, settings=windows) as client:
            client.machine.increment_flow_control_window(1 << 30)
            await client.flush()
            await client.ask("GET", "/big?50000000")
            await served.wait_until(lambda: bool(served.endings))
        assert "send_timeout_s" in served.endings[0]
        assert served.faults == ["send_timed_out"]


async def test_a_connection_without_streams_is_ended_once_its_client_was_warned() -> None:
    limits = ServerLimits(idle_timeout_s=0.05)
    async with serving(limits=limits) as served, await RawClient.dial(served.address) as client:
        await client.send(head(1))
        await client.next_of(DATA)
        ping = await client.next_of(PING)
        await client.send(head(3))  # It was on its way.
        await client.send(frame(PING, ACK, 0, ping.payload))
        rest = await client.rest()
        assert [f.stream_id for f in rest if f.kind == DATA] == [3]
        assert [f.payload for f in client.seen if f.kind == GOAWAY][1] == b"\0\0\0\3\0\0\0\0"
        assert served.faults == []


async def test_a_client_that_does_not_answer_the_warning_is_ended_all_the_same() -> None:
    config = Http2Config(role=Role.SERVER, drain_s=0.02)
    limits = ServerLimits(idle_timeout_s=0.02)
    async with serving(limits=limits, config=config) as served, await RawClient.dial(served.address) as client:
        assert [f.kind for f in await client.rest() if f.kind == GOAWAY] == [GOAWAY, GOAWAY]


@pytest.mark.slow
async def test_a_client_that_asks_and_does_not_read_is_not_heard_any_longer() -> None:
    def answer(stream: Http2ServerStream, request: Request) -> None:
        stream.respond(204, [(b"x-filler", b"%d" % stream.stream_id * 1000)])

    async with serving(answer) as served, await RawClient.dial(served.address) as client:
        await served.wait_until(lambda: bool(served.connections))
        connection = served.connections[0]
        stream_id = 1
        with trio.move_on_after(10):
            while not connection.paused:
                with trio.move_on_after(0.5):
                    await client.send(b"".join(head(stream_id + 2 * number) for number in range(100)))
                stream_id += 200
        assert connection.paused
        assert connection.unsent_len < 8_000_000
        while len({f.stream_id for f in client.seen if f.kind == HEADERS}) < len(served.streams) or connection.paused:
            await client.next_frame()


async def test_a_silent_client_with_a_stream_open_is_pinged_and_kept() -> None:
    async with serving() as served, await H2Client.dial(served.address) as client:
        await client.ask("GET", "/never")
        await served.wait_until(lambda: bool(served.streams))
        connection = served.connections[0]
        connection._heard_at -= 1e3
        connection._arm()
        await client.read_until(lambda: client.pings == 1)
        assert (await client.fetch("GET", "/")).status == 200


# --- how connections end ---


async def test_broken_framing_ends_the_connection_with_goaway_and_is_counted() -> None:
    async with serving() as served, await H2Client.dial(served.address) as client:
        await client.ask("GET", "/never")
        await client.stream.send_all(b"\0\0\5\6\0\0\0\0\0short")  # A PING of five bytes.
        await client.read_until(lambda: False)
        assert int(client.goaways[0].error_code or 0) == h2.errors.ErrorCodes.FRAME_SIZE_ERROR
        assert served.faults == ["frame_size"]
        assert served.streams[0].closed


async def test_draining_finishes_open_streams_and_then_ends() -> None:
    def answer(stream: Http2ServerStream, request: Request) -> None:
        stream.respond(200, [], request.body or b"none")

    async with serving(answer) as served, await RawClient.dial(served.address) as client:
        await client.send(head(1, POST, end=False) + frame(DATA, 0, 1, b"begun"))
        await served.wait_until(lambda: bool(served.streams))
        served.connections[0].wind_down()
        warning = await client.next_of(GOAWAY)
        ping = await client.next_of(PING)
        assert int.from_bytes(warning.payload[:4], "big") == (1 << 31) - 1
        await client.send(head(3))  # On its way when the client was warned.
        await client.send(frame(PING, ACK, 0, ping.payload))
        final = await client.next_of(GOAWAY)
        assert int.from_bytes(final.payload[:4], "big") == 3
        await client.send(head(5))  # Too late: it is not looked at.
        await client.send(frame(DATA, END_STREAM, 1, b" end"))
        rest = await client.rest()
        assert [f.payload for f in rest if f.kind == DATA and f.stream_id == 1] == [b"begun end"]
        assert {f.stream_id for f in (*client.seen, *rest) if f.kind == HEADERS} == {1, 3}
        assert len(served.streams) == 2


async def test_draining_an_idle_connection_ends_it() -> None:
    async with serving() as served, await RawClient.dial(served.address) as client:
        await client.send(head(1))
        await client.next_of(DATA)
        served.connections[0].wind_down()
        ping = await client.next_of(PING)
        await client.send(frame(PING, ACK, 0, ping.payload))
        assert [f.kind for f in await client.rest()] == [GOAWAY]


async def test_a_client_that_leaves_without_a_word_leaves_nothing() -> None:
    async with serving() as served:
        for _ in range(3):
            async with await H2Client.dial(served.address) as client:
                await client.ask("GET", "/never")
        await served.wait_until(lambda: len(served.endings) == 3)
        assert all(stream.closed for stream in served.streams)


async def test_an_upgraded_request_is_answered_as_stream_1() -> None:
    def answer(stream: Http2ServerStream, request: Request) -> None:
        stream.respond(200, [(b"x-stream", b"%d" % stream.stream_id)], request.head.method + request.body)

    async with serving(answer) as served:
        theirs = await trio.open_tcp_stream(*served.address)
        async with H2Client(theirs) as client:
            await served.wait_until(lambda: len(served.connections) == 1)
            connection = served.connections[0]
            # Settings that the client would have sent in base64, in its HTTP/1.1 request.
            client.machine.initiate_upgrade_connection()
            client.machine.data_to_send()
            connection.machine = type(connection.machine)(Http2Config(role=Role.SERVER), trio.current_time())
            head = parse_request_head(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\n\r\n")
            request = Request(head, b"upgraded", trio.current_time())
            connection.begin_upgraded(request, b"\0\4\0\0\xff\xff", b"")
            await client.stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
            answered = await client.answer(1)
            assert (answered.headers["x-stream"], bytes(answered.body)) == ("1", b"POSTupgraded")


@pytest.mark.parametrize("size", [1, 2, 5, 9, 24, 50])
async def test_bytes_may_come_in_any_pieces(size: int) -> None:
    async with serving() as served:
        ours = socket.create_connection(served.address)
        ours.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with H2Client(stream) as client:
            client.machine.initiate_connection()
            head = [(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", "/echo")]
            client.machine.send_headers(1, head)
            client.machine.send_data(1, b"in pieces", end_stream=True)
            data = client.machine.data_to_send()
            for start in range(0, len(data), size):
                await stream.send_all(data[start : start + size])
                await trio.sleep(0)
            assert bytes((await client.answer(1)).body) == b"in pieces"


async def test_an_answer_without_an_end_is_reset_when_it_is_lost() -> None:
    def answer(stream: Http2ServerStream, request: Request) -> None:
        stream.send_head([(b":status", b"200")])
        stream.send_data(b"begun")
        stream.lose("for a reason")

    async with serving(answer) as served, await H2Client.dial(served.address) as client:
        answered = await client.fetch("GET", "/")
        assert (answered.ended, answered.reset) == (False, h2.errors.ErrorCodes.INTERNAL_ERROR)


async def test_trailers_follow_all_the_data() -> None:
    def answer(stream: Http2ServerStream, request: Request) -> None:
        stream.send_head([(b":status", b"200")])
        stream.send_data(b"x" * 300_000)
        stream.send_trailers([(b"grpc-status", b"0")])
        stream.finish()

    async with serving(answer) as served, await H2Client.dial(served.address) as client:
        answered = await client.fetch("GET", "/")
        assert (len(answered.body), answered.trailers, answered.ended) == (300_000, {"grpc-status": "0"}, True)


async def test_an_answer_is_a_single_write() -> None:
    async with serving(hello) as served, await H2Client.dial(served.address) as client:
        await client.fetch("GET", "/")
        connection = served.connections[0]
        writes: list[int] = []
        send = connection._send

        def counted(data: bytes) -> int:
            writes.append(len(data))
            return send(data)

        connection._send = counted  # type: ignore[assignment]
        for path in ("/", "/slow"):
            writes.clear()
            await client.fetch("GET", path)
            assert len(writes) == 1


@pytest.mark.slow
async def test_a_connection_in_use_is_not_idle() -> None:
    async with (
        serving(limits=ServerLimits(idle_timeout_s=0.2)) as served,
        await H2Client.dial(served.address) as client,
    ):
        for _ in range(8):
            await client.fetch("GET", "/")
            await trio.sleep(0.05)
        assert client.goaways == []
