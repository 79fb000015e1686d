"""Invariant: the end of any answer gives two token counts from 0 to 999,999,999, and any value encodes as one event.

Reading is by plain searches, so nothing is ever refused. The counts of an answer that is JSON are those that a
JSON reader finds in its last `usage`. A cut may hide an event from the count, never add one.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator

from fuzz.target import Target, demand, ways_to_feed
from wire.sse import count_events, encode_event, usage_tokens


def check(data: bytes) -> Hashable:
    prompt, completion = usage_tokens(data)
    demand(0 <= prompt < 10**9, "prompt tokens", prompt)
    demand(0 <= completion < 10**9, "completion tokens", completion)
    whole = count_events(data)
    for way, pieces in ways_to_feed(data):
        counted = sum(map(count_events, pieces))
        demand(counted <= whole, f"more events {way}", counted, whole)
    event = encode_event({"text": data.decode("latin-1")})
    demand(event.count(b"\n") == 2, "not one event", event)
    demand(event.endswith(b"\n\n"), "no end of the event", event)
    demand(json.loads(event[6:])["text"] == data.decode("latin-1"), "another value", event)
    return bool(prompt), bool(completion), min(whole, 2), _as_json_says(data, prompt, completion)


def _as_json_says(data: bytes, prompt: int, completion: int) -> bool:
    """Whether the last event was JSON with a plain `usage`, whose counts were then compared."""
    last = data.rpartition(b"data: ")[2]
    try:
        value = json.loads(last)
    except (ValueError, RecursionError):
        return False
    usage = value.get("usage") if isinstance(value, dict) else None
    if (
        not isinstance(usage, dict)
        or last.count(b'"usage"') != 1
        or set(usage) != {"prompt_tokens", "completion_tokens"}
    ):
        return False
    stated = usage["prompt_tokens"], usage["completion_tokens"]
    if (
        not all(type(count) is int and 0 <= count < 10**9 for count in stated)
        or b"_tokens" in last.partition(b'"usage"')[0]
    ):
        return False
    if last.count(b"_tokens") != 2 or b"\\" in last:
        return False
    demand((prompt, completion) == stated, "other tokens than JSON states", (prompt, completion), stated)
    return True


def seeds() -> Iterator[bytes]:
    yield b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":12}}\n\ndata: [DONE]\n\n'
    yield b'data: {"usage": {"prompt_tokens" : 3, "completion_tokens":\t12}}'
    yield b'data: {"choices":[{"delta":{"content":"data: "}}],"usage":null}\n\n'
    yield b'{"id":"x","usage":{"completion_tokens":1,"prompt_tokens":999999999,"total_tokens":2}}'
    yield b": comment\n\nevent: x\nid: 1\nretry: 5\ndata: a\ndata: b\n\n"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.sse",),
    words=(b'"usage"', b'"prompt_tokens"', b'"completion_tokens"', b"data: ", b"\n\n", b": ", b"[DONE]"),
    input_bytes_max=1024,
)
