"""Logs: events with fields, one JSON object a line on standard error; a human renderer when that is a terminal.

    log = get_logger()
    log.info("peer_suspected", peer="gpu-a", after_s=1.5)

Each line holds `ts` (RFC 3339, UTC, milliseconds), `level`, `event`, `node` (the one that logs), `trace_id` and
`span_id` where given, then the fields. A field with the name of one of these is written as `field_<name>`: say
`peer` for another node. Secrets are redacted, long values cut (redaction.py). structlog carries the bound fields.

Duties of the caller: `configure_logs` once in main; `keep_logs_flowing` as a task of the daemon; `flush_logs`
before the process ends. Log a fact once, where it is known. A line costs about 10 us: on the request path ask
`RequestSampling` first.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TextIO

import msgspec
import structlog
import trio

from infermesh.core.model.ports import Rng
from infermesh.observe.families import Value
from infermesh.observe.log_sink import DescriptorSink, Sink, TextSink
from infermesh.observe.redaction import clean_field

LEVELS: Final[Mapping[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_FIXED = ("ts", "level", "event", "node", "trace_id", "span_id")


class _Output:
    """The one place that log lines of this process go to; replaced in place, so that loggers may be kept."""

    def __init__(self) -> None:
        self.node = ""
        self.level_number = LEVELS["info"]
        self.sink: Sink = TextSink(None)
        self.dropped = Value()
        self.render: Callable[[dict[str, object]], bytes] = render_json

    def write(self, line: bytes) -> None:
        self.sink.write(line)


def _compose(_logger: object, level: str, fields: Any) -> bytes:
    """The last processor of structlog: order, clean, render."""
    if "exc_info" in fields:
        fields = structlog.processors.format_exc_info(None, level, fields)
    line: dict[str, object] = {
        "ts": timestamp(time.time()),
        "level": level,
        "event": str(fields.pop("event")),
        "node": _output.node,
    }
    for name in ("trace_id", "span_id"):
        if name in fields:
            line[name] = fields.pop(name)
    for name, value in fields.items():
        line[f"field_{name}" if name in _FIXED else name] = clean_field(name, value)
    return _output.render(line)


class _Writer:
    """What structlog calls with the finished line, by the name of the level."""

    def debug(self, line: bytes) -> None:
        _output.write(line)

    info = warning = error = critical = debug


class Logger(structlog.BoundLoggerBase):
    """Levels as methods. A call below the configured level costs 0.1 us and touches nothing."""

    def debug(self, event: str, /, **fields: object) -> None:
        if _output.level_number <= 10:
            self._log("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        if _output.level_number <= 20:
            self._log("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        if _output.level_number <= 30:
            self._log("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        if _output.level_number <= 40:
            self._log("error", event, fields)

    def critical(self, event: str, /, **fields: object) -> None:
        self._log("critical", event, fields)

    def _log(self, level: str, event: str, fields: dict[str, object]) -> None:
        if "event" in fields:
            fields["field_event"] = fields.pop("event")
        self._proxy_to_logger(level, event, **fields)


def get_logger(**fields: object) -> Logger:
    """A logger that adds `fields` to each of its lines. May be made before `configure_logs`."""
    return Logger(_Writer(), (_compose,), dict(fields))


def configure_logs(node: str, level: str = "info", stream: TextIO | None = None, *, human: bool | None = None) -> None:
    """Say where the lines of this process go. `human` None: human when the stream is a terminal.

    Lines of libraries that use `logging` (hypercorn, the OTLP exporter) come out as events too, from warning up.
    """
    if level not in LEVELS:
        raise ValueError(f"logs.level = {level!r}; allowed: {', '.join(LEVELS)}")
    stream = sys.stderr if stream is None else stream
    _output.sink.close()
    _output.node = node
    _output.level_number = LEVELS[level]
    _output.dropped = Value()
    _output.sink = _sink_for(stream, _output.dropped)
    terminal = stream is not None and stream.isatty()
    if terminal if human is None else human:
        color = terminal and not os.environ.get("NO_COLOR")
        _output.render = _render_color if color else _render_plain
    else:
        _output.render = render_json
    _take_library_logs()


def _sink_for(stream: TextIO | None, dropped: Value) -> Sink:
    if stream is None:  # Standard error was closed before we began.
        return TextSink(None)
    try:
        stream.flush()
        return DescriptorSink(stream.fileno(), dropped)
    except (OSError, ValueError):  # io.UnsupportedOperation is both: a stream of text in memory.
        return TextSink(stream)


def dropped_lines() -> int:
    """Lines of this process that were lost, since `configure_logs`."""
    return int(_output.dropped.value)


def flush_logs(within_s: float = 0.5) -> bool:
    """Write out what waits, for at most `within_s`. Blocks: for the end of a process only."""
    return _output.sink.flush(within_s)


async def keep_logs_flowing(period_s: float = 1.0) -> None:
    """Runs until cancelled: hands on what a slow reader left waiting even when no further line comes."""
    while True:
        await trio.sleep(period_s)
        _output.sink.drain()


class RequestSampling:
    """Which requests get a line: every one that failed, and a share of those that did not."""

    def __init__(self, success_ratio: float, rng: Rng) -> None:
        self._success_ratio = success_ratio
        self._random = rng.random

    def wants(self, *, failed: bool) -> bool:
        return failed or self._random() < self._success_ratio


class _LibraryLogs(logging.Handler):
    """Turns a record of the standard library's logging into an event of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # A wrong format string of a library.
            message = str(record.msg)
        write = _library.error if record.levelno >= logging.ERROR else _library.warning
        fields: dict[str, object] = {"exc_info": record.exc_info} if record.exc_info else {}
        write("library_message", library=record.name, message=message, **fields)


def _take_library_logs() -> None:
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _LibraryLogs)]
    root.addHandler(_LibraryLogs(level=logging.WARNING))


# --- Rendering ---


def timestamp(unix_s: float) -> str:
    """RFC 3339 in UTC with milliseconds. The second is remembered: most lines fall into the one before."""
    whole = int(unix_s)
    second, text = _second[0]
    if second != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _second[0] = (whole, text)  # One assignment: worker threads log too.
    return f"{text}.{int((unix_s - whole) * 1000):03d}Z"


_second = [(-1, "")]


def render_json(line: dict[str, object]) -> bytes:
    try:
        return _encode(line) + b"\n"
    except (TypeError, ValueError, OverflowError):  # Lone surrogates and integers beyond 64 bits.
        return json.dumps(line, default=str).encode("ascii") + b"\n"


_encode = msgspec.json.Encoder(enc_hook=str).encode

_COLORS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


def _render_plain(line: dict[str, object]) -> bytes:
    return _human(line, color=False)


def _render_color(line: dict[str, object]) -> bytes:
    return _human(line, color=True)


def _human(line: dict[str, object], *, color: bool) -> bytes:
    """`12:31:02.123 warning  peer_suspected  peer=gpu-a after_s=1.5`, an exception below it."""
    level, event = str(line["level"]), _plain(line["event"])
    exception = line.get("exception")
    fields = [
        f"{_plain(name)}={_plain(value)}"
        for name, value in line.items()
        if name not in ("ts", "level", "event", "node", "exception")
    ]
    head, name = f"{str(line['ts'])[11:23]} {level:<8}", event
    if color:
        head, name = f"\x1b[2m{head[:13]}\x1b[0m\x1b[{_COLORS[level]}m{level:<8}\x1b[0m", f"\x1b[1m{event}\x1b[0m"
    text = f"{head} {name}  {' '.join(fields)}".rstrip()
    if exception:
        text += "\n" + "\n".join("    " + _escape(part) for part in str(exception).splitlines())
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: object) -> str:
    """One word: quoted when it holds blanks, and never able to steer a terminal."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else str(value)
    if not text or any(character.isspace() or character == '"' for character in text):
        return _escape(json.dumps(text, ensure_ascii=False))
    return _escape(text)


def _escape(text: str) -> str:
    return text if text.isprintable() else "".join(_visible(text))


def _visible(text: str) -> Iterable[str]:
    for character in text:
        printable = character.isprintable()
        yield character if printable else character.encode("unicode_escape", "replace").decode("ascii")


_output = _Output()
_library = get_logger()
