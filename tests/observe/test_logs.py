import io
import json
import logging
import os
import random
import re
import sys
import timeit
from collections.abc import Callable, Iterator

import pytest
import trio
from trio.testing import MockClock

from infermesh.observe import logs
from infermesh.observe.log_sink import TextSink
from infermesh.observe.logs import (
    RequestSampling,
    configure_logs,
    dropped_lines,
    flush_logs,
    get_logger,
    keep_logs_flowing,
    timestamp,
)

Lines = Callable[[], list[dict[str, object]]]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    yield io.StringIO()
    configure_logs("", stream=sys.__stderr__, human=False)


@pytest.fixture
def lines(stream: io.StringIO) -> Lines:
    configure_logs("edge", "info", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object_with_the_fixed_fields_first(lines: Lines, stream: io.StringIO) -> None:
    get_logger().info("peer_suspected", after_s=1.5, peer="gpu-a", span_id="b" * 16, trace_id="a" * 32)
    [line] = lines()
    assert list(line) == ["ts", "level", "event", "node", "trace_id", "span_id", "after_s", "peer"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(line.pop("ts")))
    assert line == {
        "level": "info",
        "event": "peer_suspected",
        "node": "edge",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "after_s": 1.5,
        "peer": "gpu-a",
    }
    assert stream.getvalue().count("\n") == 1


def test_levels_below_the_configured_one_write_nothing(lines: Lines) -> None:
    log = get_logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    log.critical("e")
    assert [(line["level"], line["event"]) for line in lines()] == [
        ("info", "b"),
        ("warning", "c"),
        ("error", "d"),
        ("critical", "e"),
    ]


def test_a_logger_made_before_the_configuration_follows_it(stream: io.StringIO) -> None:
    log = get_logger()
    configure_logs("late", "debug", stream)
    log.debug("seen")
    assert json.loads(stream.getvalue())["node"] == "late"


def test_bound_fields_are_on_each_line_and_calls_do_not_leak_into_each_other(lines: Lines) -> None:
    log = get_logger(port="client").bind(peer="gpu-a")
    log.info("one", extra=1)
    log.info("two")
    assert [(line["port"], line["peer"], line.get("extra")) for line in lines()] == [
        ("client", "gpu-a", 1),
        ("client", "gpu-a", None),
    ]


def test_fields_named_like_the_fixed_ones_do_not_forge_them(lines: Lines) -> None:
    get_logger().info("x", node="gpu-a", level="debug", ts="1970", event="y")
    [line] = lines()
    assert (line["node"], line["level"], line["event"]) == ("edge", "info", "x")
    assert (line["field_node"], line["field_level"], line["field_ts"], line["field_event"]) == (
        "gpu-a",
        "debug",
        "1970",
        "y",
    )


def test_secrets_do_not_reach_the_line(lines: Lines, stream: io.StringIO) -> None:
    get_logger().info("x", authorization="Bearer abc", headers={"x-api-key": "abc"})
    assert "abc" not in stream.getvalue()


def test_an_exception_becomes_one_field_of_one_line(lines: Lines) -> None:
    try:
        raise RuntimeError("boom\nsecond line")
    except RuntimeError as error:
        get_logger().error("task_failed", exc_info=True, error=error)
    [line] = lines()
    assert "Traceback" in str(line["exception"])
    assert str(line["exception"]).endswith("boom\nsecond line")
    assert line["error"] == "boom\nsecond line"


@pytest.mark.parametrize(
    "value", ["\ud800", 1 << 80, float("nan"), b"\xff", object(), {"a": {1, 2}}, "new\nline", "\x1b[2J"]
)
def test_any_value_makes_one_valid_line(lines: Lines, stream: io.StringIO, value: object) -> None:
    get_logger().info("x", value=value)
    assert len(lines()) == 1
    assert stream.getvalue().count("\n") == 1


def test_messages_of_libraries_become_events_from_warning_up(lines: Lines) -> None:
    library = logging.getLogger("some.library")
    library.info("quiet")
    library.warning("failed %s times", 3)
    library.error("failed for good")
    assert [(line["level"], line["library"], line["message"]) for line in lines()] == [
        ("warning", "some.library", "failed 3 times"),
        ("error", "some.library", "failed for good"),
    ]


def test_a_library_with_a_wrong_format_string_still_gets_its_line(lines: Lines) -> None:
    [ours] = [handler for handler in logging.getLogger().handlers if type(handler).__module__ == logs.__name__]
    ours.handle(logging.LogRecord("lib", logging.ERROR, "f.py", 1, "wrong %d format", ("x",), None))
    assert [line["message"] for line in lines()] == ["wrong %d format"]


def test_an_unknown_level_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match=r"'loud'; allowed: debug, info, warning, error, critical"):
        configure_logs("edge", "loud")


def test_the_human_renderer_is_short_and_cannot_steer_the_terminal(stream: io.StringIO) -> None:
    configure_logs("edge", "info", stream, human=True)
    get_logger().warning("peer_suspected", peer="gpu-a", after_s=1.5, why="no answer", evil="\x1b[2Jx")
    text = stream.getvalue()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d\.\d{3} warning  peer_suspected  "
        r'peer=gpu-a after_s=1\.5 why="no answer" evil=\\x1b\[2Jx\n',
        text,
    )


def test_the_human_renderer_shows_an_exception_below_its_line(stream: io.StringIO) -> None:
    configure_logs("edge", "info", stream, human=True)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        get_logger().error("task_failed", exc_info=True)
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("task_failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == "    RuntimeError: boom"


def test_a_terminal_gets_color_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    colored, plain, piped = Terminal(), Terminal(), Terminal()
    configure_logs("edge", "info", colored)
    get_logger().info("x")
    monkeypatch.setenv("NO_COLOR", "1")
    configure_logs("edge", "info", plain)
    get_logger().info("x")
    configure_logs("edge", "info", piped, human=False)
    get_logger().info("x")
    configure_logs("", stream=sys.__stderr__, human=False)
    assert "\x1b[32minfo" in colored.getvalue()
    assert "\x1b" not in plain.getvalue()
    assert json.loads(piped.getvalue())["event"] == "x"


def test_time_is_written_in_utc_with_milliseconds() -> None:
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(1_700_000_000.9996) == "2023-11-14T22:13:20.999Z"


def test_failures_are_always_logged_and_successes_by_their_share() -> None:
    sampling = RequestSampling(0.25, random.Random(7))
    assert all(sampling.wants(failed=True) for _ in range(1000))
    taken = sum(sampling.wants(failed=False) for _ in range(10_000))
    assert 2300 < taken < 2700
    assert not any(RequestSampling(0.0, random.Random(7)).wants(failed=False) for _ in range(1000))
    assert all(RequestSampling(1.0, random.Random(7)).wants(failed=False) for _ in range(1000))


async def test_a_backlog_is_handed_on_without_a_further_line(autojump_clock: MockClock, stream: io.StringIO) -> None:
    drained: list[float] = []

    class Sink(TextSink):
        def drain(self) -> None:
            drained.append(trio.current_time())

    configure_logs("edge", "info", stream)
    logs._output.sink = Sink(stream)
    began = trio.current_time()
    with trio.move_on_after(3.5):
        await keep_logs_flowing(period_s=1.0)
    assert [round(at - began) for at in drained] == [1, 2, 3]
    assert flush_logs(0.0)


def test_lines_that_nobody_took_are_counted() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        configure_logs("edge", "info", stream)
        log = get_logger()
        for _ in range(3000):
            log.info("x", text="a" * 1000)
        assert dropped_lines() > 0
        configure_logs("", stream=sys.__stderr__, human=False)
    os.close(reader)
    assert dropped_lines() == 0


def test_a_line_stays_cheap(lines: Lines) -> None:
    """Ten times the measured 8 us: this catches a lock or a file opened per line, not a slow machine."""
    log = get_logger()
    configure_logs("edge", "info", io.StringIO())
    cost_s = min(
        timeit.repeat(
            lambda: log.info("request_settled", model="m", peer="gpu-a", status=200, ttft_ms=12.5, attempts=1),
            number=500,
            repeat=7,
        )
    )
    assert cost_s / 500 < 100e-6
