"""The asking side against somebody else's server (the h2 package): answers, credit, and every way an exchange fails."""

from __future__ import annotations

import socket

import h2.errors
import h2.settings
import pytest
import trio

from infermesh.net.http2 import Http2Pool, Http2UpstreamStream
from infermesh.net.http2.endpoint import EndpointTimes
from infermesh.net.pool import ConnectFailed, PoolLimits
from infermesh.testing.h2_peer import H2Peer
from tests.net.http2.asking import Sink, asking, echo, get, post
from wire.http1 import ResponseHead
from wire.limits import HTTP1_INTERIM_RESPONSES_MAX

STREAMS_MAX = int(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)


async def test_exchanges_share_one_connection() -> None:
    async with asking(echo) as here:
        first = await here.fetch(get(b"/a"))
        second = await here.fetch(post(b"/b"), b"a body")
        assert (bytes(first.body), first.heads[0].value(b"x-path")) == (b"hello", b"/a")
        assert (bytes(second.body), second.ends) == (b"a body", 1)
        assert (here.server.connections, here.pool.open_len, here.pool.idle_len) == (1, 1, 1)


@pytest.mark.slow
async def test_a_large_body_comes_back_as_it_was() -> None:
    body = bytes(range(256)) * 16_384
    async with asking(echo) as here:
        assert bytes((await here.fetch(post(), body)).body) == body


async def test_a_burst_at_the_start_opens_one_connection() -> None:
    async with asking(echo) as here, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(here.fetch, get())
    assert here.server.connections == 1


async def test_another_connection_is_opened_when_the_peer_takes_no_more_streams() -> None:
    async with asking(echo, settings={STREAMS_MAX: 2}) as here:
        await here.fetch(get())  # So that its settings are known.
        taken: list[Http2UpstreamStream] = []
        for number in range(5):
            up = await here.stream()
            taken.append(up)
            await here.wait_until(lambda: taken[-1].connection.machine.max_concurrent == 2)
            assert here.pool.open_len == number // 2 + 1
        for up in taken:
            up.release()
        assert here.pool.idle_len == 3


async def test_whoever_finds_no_room_waits_for_it() -> None:
    async with asking(echo, settings={STREAMS_MAX: 1}, limits=PoolLimits(connections_max=1)) as here:
        await here.fetch(get())
        sinks = [Sink() for _ in range(5)]

        async def fetch(sink: Sink) -> None:
            await here.fetch(get(), sink=sink)

        async with trio.open_nursery() as nursery:
            for sink in sinks:
                nursery.start_soon(fetch, sink)
        assert [bytes(sink.body) for sink in sinks] == [b"hello"] * 5


async def test_no_room_in_time_says_so() -> None:
    async with asking(echo, settings={STREAMS_MAX: 1}, limits=PoolLimits(connections_max=1)) as here:
        await here.fetch(get())
        up = await here.stream()
        with pytest.raises(ConnectFailed, match="connections_max"):
            await here.pool.acquire(trio.current_time() + 0.01)
        up.release()


async def test_nobody_listening_fails_everybody_who_waits() -> None:
    async with asking(echo) as here:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = unused.getsockname()
            pool = Http2Pool(address, here.running.reactor, here.running.timers, limits=PoolLimits())
        failures: list[str] = []

        async def fetch() -> None:
            try:
                await pool.acquire(trio.current_time() + 5)
            except ConnectFailed as error:
                failures.append(str(error))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(fetch)
        assert len(failures) == 10
        assert all("cannot connect" in failure for failure in failures)


async def test_the_head_is_held_until_the_body_begins() -> None:
    begin = trio.Event()

    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: bool(peer.streams))
        await peer.send_headers(1, [(":status", "200")])
        await begin.wait()
        await peer.send_data(1, b"first")
        await peer.send_data(1, b"second", end=True)
        await peer.read_until(lambda: False)

    async with asking(script) as here:
        sink = Sink()
        sink.hold = True
        up = await here.stream()
        up.open(get(), sink)
        await here.wait_until(lambda: bool(sink.heads))
        assert not sink.body
        begin.set()
        await sink.ended.wait()
        assert bytes(sink.body) == b"firstsecond"


async def test_a_held_head_without_a_body_ends_with_its_trailers() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: bool(peer.streams))
        await peer.send_headers(1, [(":status", "200")])
        await peer.send_headers(1, [("grpc-status", "7")], end=True)
        await peer.read_until(lambda: False)

    async with asking(script) as here:
        sink = Sink()
        sink.hold = True
        up = await here.stream()
        up.open(get(), sink)
        await sink.ended.wait()
        assert (sink.ends, up.trailers) == (1, [(b"grpc-status", b"7")])


async def test_interim_heads_are_told() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: bool(peer.streams))
        for _ in range(2):
            await peer.send_headers(1, [(":status", "103"), ("link", "</a>")])
        await peer.send_headers(1, [(":status", "204")], end=True)
        await peer.read_until(lambda: False)

    async with asking(script) as here:
        sink = await here.fetch(get())
        assert (sink.interim, sink.heads[0].status, sink.ends) == ([103, 103], 204, 1)


@pytest.mark.parametrize(
    ("code", "unprocessed"),
    [(h2.errors.ErrorCodes.REFUSED_STREAM, True), (h2.errors.ErrorCodes.INTERNAL_ERROR, False)],
)
async def test_a_reset_stream_fails_and_says_whether_it_may_be_sent_again(
    code: h2.errors.ErrorCodes, *, unprocessed: bool
) -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: bool(peer.streams))
        await peer.reset(1, code)
        await echo(peer, after=1)

    async with asking(script) as here:
        sink = Sink()
        up = await here.stream()
        up.open(get(), sink)
        await sink.ended.wait()
        assert code.name in sink.failures[0]
        assert (up.unprocessed, up.reset_code, up.closed) == (unprocessed, code, True)
        assert bytes((await here.fetch(get())).body) == b"hello"
        assert here.server.connections == 1


async def test_after_goaway_old_streams_end_and_new_ones_go_elsewhere() -> None:
    scripts = 0

    async def script(peer: H2Peer) -> None:
        nonlocal scripts
        scripts += 1
        if scripts > 1:
            await echo(peer)
            return
        await peer.read_until(lambda: len(peer.streams) == 3)
        peer.machine.close_connection(last_stream_id=3)
        data = peer.machine.data_to_send()
        await peer.stream.send_all(data)
        await go_on.wait()
        # h2 thinks the connection over: the answer is written by hand. Status 200 is 0x88.
        for stream_id in (1, 3):
            await peer.stream.send_all(b"\0\0\1\1\5\0\0\0" + bytes([stream_id]) + b"\x88")
        while await peer.stream.receive_some():
            pass

    go_on = trio.Event()
    async with asking(script) as here:
        sinks = [Sink() for _ in range(3)]
        ups = [await here.stream() for _ in range(3)]
        for up, sink in zip(ups, sinks, strict=True):
            up.open(get(), sink)
        await sinks[2].ended.wait()
        assert ups[2].unprocessed
        assert bytes((await here.fetch(get())).body) == b"hello"
        assert here.server.connections == 2
        assert here.pool.open_len == 2
        go_on.set()
        for sink in sinks[:2]:
            await sink.ended.wait()
            assert sink.ends == 1
        await here.wait_until(lambda: here.pool.open_len == 1)


async def test_the_death_of_a_connection_fails_every_exchange_once() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: len(peer.streams) == 3)

    async with asking(script) as here:
        sinks = [Sink() for _ in range(3)]
        for sink in sinks:
            (await here.stream()).open(get(), sink)
        for sink in sinks:
            await sink.ended.wait()
        assert [len(sink.failures) for sink in sinks] == [1] * 3
        assert here.pool.open_len == 0


async def test_detaching_resets_the_stream_and_says_nothing() -> None:
    resets: list[int | None] = []

    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: bool(peer.streams))
        await peer.send_headers(1, [(":status", "200")])
        await peer.read_until(lambda: peer.of(1).reset is not None)
        resets.append(peer.of(1).reset)
        await echo(peer, after=1)

    async with asking(script) as here:
        sink = Sink()
        up = await here.stream()
        up.open(get(), sink)
        await here.wait_until(lambda: bool(sink.heads))
        up.detach()
        await here.wait_until(lambda: bool(resets))
        assert resets == [h2.errors.ErrorCodes.CANCEL]
        assert (sink.ends, sink.failures) == (0, [])
        assert bytes((await here.fetch(get())).body) == b"hello"


async def test_an_answer_before_the_request_is_whole_ends_the_exchange() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: bool(peer.streams))
        await peer.send_headers(1, [(":status", "413")], end=True)
        await peer.read_until(lambda: peer.of(1).reset is not None)
        await echo(peer, after=1)

    async with asking(script) as here:
        sink = Sink()
        up = await here.stream()
        up.open(post(), sink, data=b"begun", end=False)
        await sink.ended.wait()
        assert (sink.ends, sink.heads[0].status) == (1, 413)
        up.send_data(b"too late")
        assert bytes((await here.fetch(get())).body) == b"hello"


async def test_a_defect_in_a_sink_ends_its_exchange_only() -> None:
    class Broken(Sink):
        def on_head(self, up: Http2UpstreamStream, head: ResponseHead) -> None:
            raise ZeroDivisionError("a defect")

    async with asking(echo) as here:
        broken, other = Broken(), Sink()
        (await here.stream()).open(get(), broken)
        (await here.stream()).open(get(), other)
        await broken.ended.wait()
        await other.ended.wait()
        assert "defect" in broken.failures[0]
        assert bytes(other.body) == b"hello"
        assert [type(error) for error in here.running.crashes] == [ZeroDivisionError]
        here.running.crashes.clear()


async def test_a_paused_stream_stops_its_peer_at_the_window_and_no_other_stream() -> None:
    sent = 0

    async def script(peer: H2Peer) -> None:
        nonlocal sent
        await peer.read_until(lambda: len(peer.streams) == 1)
        await peer.send_headers(1, [(":status", "200")])
        while (room := min(peer.machine.local_flow_control_window(1), 16_384)) > 0:
            await peer.send_data(1, b"x" * room)
            sent += room
        await peer.read_until(lambda: 3 in peer.streams and peer.of(3).ended)
        await peer.send_headers(3, [(":status", "200")])
        await peer.send_data(3, b"y" * 2_000_000, end=True)
        await peer.send_data(1, b"x" * 1_000_000, end=True)
        await peer.read_until(lambda: False)

    async with asking(script) as here:
        slow, quick = Sink(), Sink()
        up = await here.stream()
        up.open(get(), slow)
        up.pause()
        await here.wait_until(lambda: sent > 0 and len(slow.body) == sent)
        (await here.stream()).open(get(), quick)
        await quick.ended.wait()
        assert len(quick.body) == 2_000_000
        assert len(slow.body) == sent
        up.resume()
        await slow.ended.wait()
        assert len(slow.body) == sent + 1_000_000


async def test_a_source_is_paused_while_the_peer_takes_no_more() -> None:
    class Source:
        paused = False

        def pause(self) -> None:
            self.paused = True

        def resume(self) -> None:
            self.paused = False

    read_on = trio.Event()

    async def script(peer: H2Peer) -> None:
        peer.credits = False
        await peer.read_until(lambda: len(peer.of(1).body) >= 65_535)
        await read_on.wait()
        peer.machine.acknowledge_received_data(len(peer.of(1).body), 1)
        peer.credits = True
        await peer.flush()
        await peer.read_until(lambda: peer.of(1).ended)
        await peer.send_headers(1, [(":status", "204")], end=True)
        await peer.read_until(lambda: False)

    async with asking(script) as here:
        sink, source = Sink(), Source()
        up = await here.stream()
        up.open(post(), sink, end=False)
        total = 0
        while not source.paused:
            up.send_data(b"x" * 10_000, source=source)
            total += 10_000
        assert 65_535 < total < 65_535 + 65_536 + 20_000
        read_on.set()
        await here.wait_until(lambda: not source.paused)
        up.send_data(b"", end=True)
        await sink.ended.wait()
        assert sink.ends == 1


async def test_too_many_interim_heads_fail_the_exchange() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: bool(peer.streams))
        for _ in range(HTTP1_INTERIM_RESPONSES_MAX + 1):
            await peer.send_headers(1, [(":status", "103")])
        await peer.read_until(lambda: False)

    async with asking(script) as here:
        sink = await here.fetch(get())
        assert len(sink.interim) == HTTP1_INTERIM_RESPONSES_MAX
        assert len(sink.failures) == 1


async def test_a_peer_that_is_silent_while_it_owes_an_answer_is_pinged_and_lost() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: bool(peer.streams))
        await trio.sleep_forever()

    times = EndpointTimes(ping_after_s=0.05, ping_timeout_s=0.05)
    async with asking(script, times=times) as here:
        sink = await here.fetch(get())
        assert "ping" in sink.failures[0]


@pytest.mark.slow
async def test_a_peer_that_answers_pings_is_given_its_time_and_not_pinged_too_often() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: peer.pings == 2)
        with trio.move_on_after(0.3):
            await peer.read_until(lambda: peer.pings == 3)
        assert peer.pings == 2
        await peer.send_headers(1, [(":status", "200")])
        await peer.read_until(lambda: peer.pings == 3)
        await peer.send_data(1, b"late", end=True)
        await peer.read_until(lambda: False)

    async with asking(script, times=EndpointTimes(ping_after_s=0.05, ping_timeout_s=5)) as here:
        sink = await here.fetch(get())
        assert bytes(sink.body) == b"late"


async def test_doubt_closes_what_idles_and_is_told_to_exchanges() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: False)

    async with asking(script) as here:
        sink = Sink()
        (await here.stream()).open(get(), sink)
        idle = await here.stream(fresh=True)
        idle.release()
        assert here.pool.idle_len == 1
        here.pool.doubt("it is held for dead")
        assert (here.pool.open_len, sink.doubts) == (1, ["it is held for dead"])


async def test_a_peer_that_is_pinged_too_often_for_its_taste_is_pinged_half_as_often() -> None:
    """gRPC proposal A8."""

    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: bool(peer.streams))
        peer.machine.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings", 1)
        await peer.flush()

    async with asking(script, times=EndpointTimes(ping_after_s=40.0)) as here:
        await here.fetch(get())
        assert here.pool._ping_after_s == 80.0
        await here.stream()
        assert here.pool._plan.members[0]._times.ping_after_s == 80.0


async def test_a_pool_that_is_closed_fails_what_is_under_way_and_opens_no_more() -> None:
    async def script(peer: H2Peer) -> None:
        await peer.read_until(lambda: False)

    async with asking(script) as here:
        sink = Sink()
        (await here.stream()).open(get(), sink)
        unopened = await here.stream()
        here.pool.close()
        assert sink.failures == ["its pool was closed"]
        assert here.pool.take_idle() is None
        late = Sink()
        unopened.open(get(), late)
        assert (len(late.failures), unopened.unprocessed) == (1, True)
        with pytest.raises(ConnectFailed, match="is closed"):
            await here.stream()


async def test_an_idle_connection_says_goodbye() -> None:
    goodbyes: list[int] = []

    async def script(peer: H2Peer) -> None:
        await echo(peer)
        goodbyes.extend(int(goaway.error_code or 0) for goaway in peer.goaways)

    async with asking(script, limits=PoolLimits(idle_timeout_s=0.05)) as here:
        await here.fetch(get())
        await here.wait_until(lambda: bool(goodbyes))
        assert (goodbyes, here.pool.open_len) == ([0], 0)
