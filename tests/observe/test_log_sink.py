import contextlib
import io
import os
import pty
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from infermesh.observe.families import Value
from infermesh.observe.log_sink import DescriptorSink, TextSink

LINE = b'{"event":"x"}\n'


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):  # The test may have closed it.
            os.close(fd)


def _read_all(fd: int) -> bytes:
    os.set_blocking(fd, False)
    found = b""
    while True:
        try:
            piece = os.read(fd, 1 << 20)
        except BlockingIOError:
            return found
        if not piece:
            return found
        found += piece


def test_a_line_goes_straight_to_a_pipe(pipe: tuple[int, int]) -> None:
    sink = DescriptorSink(pipe[1], Value())
    sink.write(LINE)
    assert os.read(pipe[0], 100) == LINE
    sink.close()


def test_the_flags_of_a_shared_pipe_stay_as_they_were(pipe: tuple[int, int]) -> None:
    sink = DescriptorSink(pipe[1], Value())
    sink.write(LINE)
    assert os.get_blocking(pipe[1])
    sink.close()
    os.write(pipe[1], b"still open")


@pytest.mark.parametrize("way", ["reopened", "polled"])
def test_a_full_pipe_never_blocks_and_loses_only_whole_counted_lines(pipe: tuple[int, int], way: str) -> None:
    reader, writer = pipe
    dropped = Value()
    sink = DescriptorSink(writer, dropped, backlog_bytes_max=10_000)
    if way == "polled":
        sink.close()
        sink._fd, sink._never_blocks = writer, False
    lines = [b"%06d" % number + b"x" * 93 + b"\n" for number in range(3000)]
    for line in lines:
        sink.write(line)
    assert dropped.value > 0

    got = _read_all(reader)
    while not sink.flush(0.0):
        got += _read_all(reader)
    got += _read_all(reader)
    kept = got.splitlines(keepends=True)
    # Nothing torn, nothing out of order, the newest dropped, every line accounted for.
    assert kept == lines[: len(kept)]
    assert len(kept) + dropped.value == len(lines)
    sink.write(lines[-1])
    assert _read_all(reader) == lines[-1]
    sink.close()


def test_a_line_larger_than_the_pipe_arrives_whole(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    dropped = Value()
    sink = DescriptorSink(writer, dropped)
    long = b"a" * 300_000 + b"\n"
    sink.write(long)
    sink.write(LINE)
    got = b""
    while not sink.flush(0.0):
        got += _read_all(reader)
    assert got + _read_all(reader) == long + LINE
    assert dropped.value == 0
    sink.close()


def test_flushing_gives_up_when_nobody_reads(pipe: tuple[int, int]) -> None:
    sink = DescriptorSink(pipe[1], Value())
    for _ in range(50):
        sink.write(b"a" * 9999 + b"\n")
    assert not sink.flush(0.06)
    sink.close()


def test_flushing_waits_for_a_reader_that_comes_late(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = DescriptorSink(writer, Value())
    sink.write(b"a" * 200_000)
    thread = threading.Thread(target=lambda: [os.read(reader, 65536) for _ in range(4)])
    thread.start()
    assert sink.flush(10.0)
    thread.join()
    sink.close()


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    dropped = Value()
    sink = DescriptorSink(writer, dropped)
    os.close(reader)
    sink.write(LINE)
    sink.write(LINE)
    assert dropped.value == 2
    sink.close()


def test_a_full_socket_never_blocks() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        dropped = Value()
        sink = DescriptorSink(ours.fileno(), dropped, backlog_bytes_max=1000)
        for _ in range(20_000):
            sink.write(b"a" * 99 + b"\n")
        assert dropped.value > 0
        assert ours.getblocking()
        got = theirs.recv(200)
        assert got[:100] == b"a" * 99 + b"\n"
        sink.close()


def test_a_terminal_that_nobody_reads_never_blocks() -> None:
    master, slave = pty.openpty()
    try:
        dropped = Value()
        sink = DescriptorSink(slave, dropped, backlog_bytes_max=1000)
        for _ in range(5000):
            sink.write(b"a" * 99 + b"\n")
        assert dropped.value > 0
        sink.close()
    finally:
        os.close(master)
        os.close(slave)


def test_a_file_takes_everything(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        sink = DescriptorSink(file.fileno(), Value())
        for _ in range(1000):
            sink.write(LINE)
        assert sink.flush(0.0)
        sink.close()
    assert (tmp_path / "log").read_bytes() == LINE * 1000


def test_a_closed_or_missing_stream_of_text_does_not_break_a_log_call(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    sink = TextSink(stream)
    stream.close()
    sink.write(LINE)
    sink.close()
    monkeypatch.setattr("sys.stderr", None)
    missing = TextSink(None)
    missing.write(LINE)
    assert missing.flush(0.0)


def test_a_stream_of_text_is_a_sink_too() -> None:
    stream = io.StringIO()
    sink = TextSink(stream)
    sink.write(LINE)
    sink.drain()
    assert sink.flush(0.0)
    sink.close()
    assert stream.getvalue() == LINE.decode()
