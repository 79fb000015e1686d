"""A trace from a file, with every fault in words for the person who named the file."""

from __future__ import annotations

from pathlib import Path

from infermesh.cli.exits import CommandFailed
from infermesh.sim.trace import TraceError, TraceRequest, parse_trace


def read_trace(file: Path, *, requests_max: int = 0) -> tuple[TraceRequest, ...]:
    """0: all of it. Raises CommandFailed."""
    try:
        with file.open(encoding="utf-8") as lines:
            return parse_trace(lines, name=str(file), requests_max=requests_max)
    except TraceError as error:
        raise CommandFailed(f"{error}; give --trace a recorded trace of that layout") from error
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read: {error.strerror}; give --trace another file") from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{file}: not text: {error.reason} at byte {error.start}; give --trace another") from error
