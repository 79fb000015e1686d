"""Request traces: the two public layouts that infermesh reads, as values.

Azure (CSV: TIMESTAMP,ContextTokens,GeneratedTokens) says nothing of content: every prompt is taken to be new.
Mooncake (JSON lines: timestamp in ms, input_length, output_length, hash_ids) names each 512-token block of the
prompt by an id that stands for everything up to it: equal ids mean a shared prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

MOONCAKE_BLOCK_TOKENS = 512
_TICKS_PER_S = 10_000_000


class TraceError(Exception):
    """A trace that cannot be used; the message names file and line."""


class TraceRequest(msgspec.Struct, frozen=True):
    arrival_s: float  # From the first request of the trace.
    prompt_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...]  # One for each MOONCAKE_BLOCK_TOKENS of the prompt, the last part one too; () new.


class _MooncakeLine(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


def parse_trace(lines: Iterable[str], *, name: str, requests_max: int = 0) -> tuple[TraceRequest, ...]:
    """A trace whose layout its name's suffix tells: `.csv` is Azure's, `.jsonl` is Mooncake's. 0: all of it."""
    if name.endswith(".csv"):
        requests = parse_azure(lines, name=name, requests_max=requests_max)
    elif name.endswith(".jsonl"):
        requests = parse_mooncake(lines, name=name, requests_max=requests_max)
    else:
        raise TraceError(f"{name}: a trace's name ends in .csv (Azure) or .jsonl (Mooncake)")
    if not requests:
        raise TraceError(f"{name}: holds no request")
    return requests


def parse_azure(lines: Iterable[str], *, name: str = "trace", requests_max: int = 0) -> tuple[TraceRequest, ...]:
    rows: list[tuple[int, int, int]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(("#", "TIMESTAMP")):
            continue
        try:
            stamp, prompt, output = line.strip().split(",")
            rows.append((_ticks(stamp), int(prompt), int(output)))
        except ValueError as error:
            raise TraceError(
                f"{name}:{number}: not TIMESTAMP,ContextTokens,GeneratedTokens: {line.strip()!r}"
            ) from error
        if len(rows) == requests_max:
            break
    if not rows:
        return ()
    begin = min(rows)[0]
    return _in_order(
        [
            TraceRequest((stamp - begin) / _TICKS_PER_S, max(1, prompt), max(1, output), ())
            for stamp, prompt, output in rows
        ]
    )


def parse_mooncake(lines: Iterable[str], *, name: str = "trace", requests_max: int = 0) -> tuple[TraceRequest, ...]:
    decode = msgspec.json.Decoder(_MooncakeLine).decode
    rows: list[_MooncakeLine] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            rows.append(decode(line))
        except msgspec.DecodeError as error:
            raise TraceError(f"{name}:{number}: not a Mooncake request: {error}") from error
        if len(rows) == requests_max:
            break
    if not rows:
        return ()
    begin = min(row.timestamp for row in rows)
    return _in_order(
        [
            TraceRequest(
                (row.timestamp - begin) * 1e-3,
                max(1, row.input_length),
                max(1, row.output_length),
                row.hash_ids,
            )
            for row in rows
        ]
    )


def _in_order(requests: Sequence[TraceRequest]) -> tuple[TraceRequest, ...]:
    return tuple(sorted(requests, key=lambda request: request.arrival_s))


def _ticks(stamp: str) -> int:
    """`2023-11-16 18:17:03.9799600` in units of 100 ns since some midnight: a trace needs differences only."""
    date, clock = stamp.split(" ")
    year, month, day = (int(part) for part in date.split("-"))
    hours, minutes, seconds = clock.split(":")
    whole, _, fraction = seconds.partition(".")
    # Days by the civil calendar, years beginning in March so that the leap day comes last.
    shifted = year - (month <= 2)
    days = 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400
    days += (153 * ((month + 9) % 12) + 2) // 5 + day
    # In whole numbers: as seconds in a float, so many days would leave microseconds no room.
    in_seconds = ((days * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(whole)
    return in_seconds * _TICKS_PER_S + int(fraction[:7].ljust(7, "0"))
