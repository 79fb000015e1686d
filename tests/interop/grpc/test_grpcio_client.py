"""grpcio as the client of our server: every kind of call, every way to end one, many at once, and while we leave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_status import rpc_status

from infermesh.testing.grpc_echo import CHAT, COUNT, CRASH, FAIL, HUSH, JOIN, POUR, SAY, SQUEEZE, WAIT
from tests.interop.grpc.grpcio_peer import caller, grpcio_channel, value
from tests.interop.grpc.ours import OurServer, our_server
from wire.grpc import Code

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[OurServer]:
    with our_server() as started:
        yield started


@pytest.fixture
def channel(server: OurServer) -> Iterator[grpc.Channel]:
    with grpcio_channel(server.target) as opened:
        yield opened


def wait_seen(server: OurServer, key: str, count: int) -> float:
    """Seconds until the server has counted `count`; at most five."""
    began = time.perf_counter()
    gate = threading.Event()
    while server.echo.seen[key] < count:
        assert time.perf_counter() - began < 5, f"{key} is {server.echo.seen[key]}, not {count}"
        gate.wait(0.005)
    return time.perf_counter() - began


def test_all_four_kinds_of_call(channel: grpc.Channel) -> None:
    assert caller(channel, SAY)(value(b"hi")).value == b"hi"
    assert [each.value for each in caller(channel, COUNT)(value(b"1000"))] == [b"%d" % n for n in range(1000)]
    assert caller(channel, JOIN)(iter([value(b"%d" % n) for n in range(100)])).value == b"".join(
        b"%d" % n for n in range(100)
    )
    sent = [value(bytes([n]) * 1000) for n in range(200)]
    assert [each.value for each in caller(channel, CHAT)(iter(sent))] == [each.value for each in sent]


def test_a_conversation_goes_back_and_forth_without_buffering(channel: grpc.Channel) -> None:
    turn = threading.Semaphore(1)

    def speak() -> Iterator[object]:
        for number in range(50):
            assert turn.acquire(timeout=5)
            yield value(b"%d" % number)

    heard = 0
    for answer in caller(channel, CHAT)(speak()):
        assert answer.value == b"%d" % heard
        heard += 1
        turn.release()
    assert heard == 50


def test_metadata_goes_both_ways_binary_too(channel: grpc.Channel) -> None:
    sent = (("x-a", "1"), ("x-raw-bin", b"\x00\xff\x10"), ("x-a", "2"))
    answer, call = caller(channel, SAY).with_call(value(b"hi"), metadata=sent)
    assert answer.value == b"hi"
    leading = [(key, each) for key, each in call.initial_metadata() if key.startswith("x-")]
    assert leading == [*sent, ("x-path", "/infermesh.testing.Echo/Say")]
    trailing = [(key, each) for key, each in call.trailing_metadata() if key.startswith("x-")]
    assert trailing == [("x-trailing", "yes"), *sent]
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("code", list(Code)[1:])
def test_every_code_arrives_with_its_message_and_details(channel: grpc.Channel, code: Code) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        caller(channel, FAIL)(value(bytes([code])))
    error = failed.value
    assert error.code().value[0] == code
    assert error.details() == "as told: 100 % früh"
    status = rpc_status.from_call(error)
    assert status is not None
    assert (status.code, status.message) == (code, "as told: 100 % früh")
    detail = StringValue()
    assert status.details[0].Unpack(detail)
    assert detail.value == "a detail"


def test_a_defect_and_an_unknown_method_are_told_apart(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as crashed:
        caller(channel, CRASH)(value(b""))
    assert crashed.value.code() is grpc.StatusCode.UNKNOWN
    with pytest.raises(grpc.RpcError) as unknown:
        channel.unary_unary("/infermesh.testing.Echo/Nope", bytes, bytes)(b"")
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "has no method 'Nope'" in unknown.value.details()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compression_both_ways(channel: grpc.Channel, compression: grpc.Compression) -> None:
    data = b"tokens " * 10_000
    assert caller(channel, SQUEEZE)(value(data), compression=compression).value == data
    sent = [value(data), value(b"short"), value(data)]
    assert [each.value for each in caller(channel, CHAT)(iter(sent), compression=compression)] == [
        each.value for each in sent
    ]


def test_messages_of_16_mib_both_ways(channel: grpc.Channel) -> None:
    data = bytes(range(256)) * (16 << 12)
    assert len(data) == 16 << 20
    assert caller(channel, SAY)(value(data)).value == data
    assert [len(each.value) for each in caller(channel, CHAT)(iter([value(data)] * 3))] == [len(data)] * 3


def test_a_message_over_the_limit_is_refused(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        caller(channel, SAY)(value(bytes(17 << 20)))
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "at most 16777280 are taken" in failed.value.details()


def test_a_deadline_cancels_the_method_on_our_side(server: OurServer, channel: grpc.Channel) -> None:
    before = server.echo.seen["cancelled"]
    with pytest.raises(grpc.RpcError) as failed:
        caller(channel, WAIT)(value(b""), timeout=0.1)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert wait_seen(server, "cancelled", before + 1) < 1


@pytest.mark.parametrize("method", [WAIT, POUR, CHAT])
def test_a_cancelled_call_is_cancelled_on_our_side_within_a_second(
    server: OurServer, channel: grpc.Channel, method: object
) -> None:
    begun, cancelled = server.echo.seen["begun"], server.echo.seen["cancelled"]
    release = threading.Event()

    def speak() -> Iterator[object]:
        yield value(b"hi")
        release.wait(10)

    if method is WAIT:
        call = caller(channel, WAIT).future(value(b""))
    elif method is POUR:
        call = caller(channel, POUR)(value(b""))
        next(call)
    else:
        call = caller(channel, CHAT)(speak())
        next(call)
    wait_seen(server, "begun", begun + 1)
    call.cancel()
    assert wait_seen(server, "cancelled", cancelled + 1) < 1
    release.set()


def test_an_early_answer_to_a_client_that_still_speaks(channel: grpc.Channel) -> None:
    def speak() -> Iterator[object]:
        for _ in range(1000):
            yield value(bytes(1000))

    call = caller(channel, HUSH)(speak())
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def test_ten_thousand_calls_one_after_the_other(channel: grpc.Channel) -> None:
    say = caller(channel, SAY)
    for number in range(10_000):
        data = b"%d" % number
        assert say(value(data)).value == data


def test_five_hundred_calls_at_once(server: OurServer, channel: grpc.Channel) -> None:
    begun = server.echo.seen["begun"]
    ready, go = threading.Barrier(501), threading.Event()

    # More streams than one connection may have: grpcio queues those itself, so several channels share them.
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(500))
        channels = [channel, *(stack.enter_context(grpcio_channel(server.target)) for _ in range(4))]

        def talk(number: int) -> bool:
            def speak() -> Iterator[object]:
                yield value(b"%d" % number)
                ready.wait(30)
                go.wait(30)
                yield value(b"end")

            answers = caller(channels[number % len(channels)], CHAT)(speak())
            return [each.value for each in answers] == [b"%d" % number, b"end"]

        running = [threads.submit(talk, number) for number in range(500)]
        wait_seen(server, "begun", begun + 500)
        ready.wait(30)
        go.set()
        assert all(each.result(30) for each in running)


def test_no_call_is_lost_while_the_server_leaves(server: OurServer) -> None:
    stop = threading.Event()

    def keep_calling(target: str) -> int:
        done = 0
        with grpcio_channel(target) as own:
            say = caller(own, SAY)
            while not stop.is_set():
                data = b"%d" % done
                assert say(value(data), timeout=10).value == data
                done += 1
        return done

    def keep_talking(target: str) -> int:
        done = 0
        with grpcio_channel(target) as own:
            while not stop.is_set():
                sent = [value(b"%d" % number) for number in range(20)]
                assert [each.value for each in caller(own, CHAT)(iter(sent), timeout=10)] == [
                    each.value for each in sent
                ]
                done += 1
        return done

    with ThreadPoolExecutor(8) as threads:
        running = [threads.submit(keep_calling, server.target) for _ in range(6)]
        running += [threads.submit(keep_talking, server.target) for _ in range(2)]
        pause = threading.Event()
        for _ in range(10):
            pause.wait(0.2)
            server.wind_down()
        stop.set()
        assert all(each.result(30) > 10 for each in running)


def test_a_quiet_stream_is_kept_alive_by_grpcios_pings(server: OurServer) -> None:
    patient = [
        ("grpc.keepalive_time_ms", 1_000),
        ("grpc.keepalive_timeout_ms", 500),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpcio_channel(server.target, *patient) as own:
        release = threading.Event()

        def speak() -> Iterator[object]:
            yield value(b"before")
            release.wait(3.5)
            yield value(b"after")

        assert [each.value for each in caller(own, CHAT)(speak())] == [b"before", b"after"]
