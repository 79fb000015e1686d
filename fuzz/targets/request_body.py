"""Invariant: a request body gives facts that a JSON reader agrees with, or RequestRefused 400; nothing else gets out.

Bodies come whole (the server collects them), so there is nothing to split. Differential: `json` of the standard
library, which must accept what we accept and state the same model, stream and limits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator

from fuzz.target import Target, Violation, demand
from infermesh.core.model.request import Priority, RequestFacts
from infermesh.core.routing.prefix import blocks_of
from infermesh.planes.data.errors import RequestRefused, error_body
from infermesh.planes.data.peek import Hints, read_facts

_HINTS = Hints(Priority.DEFAULT, math.inf, "", True)


def check(data: bytes) -> Hashable:
    try:
        facts = read_facts(data, _HINTS, 0.0, blocks_of)
    except RequestRefused as error:
        demand(error.status == 400, "refused with another status", error.status)
        answer = json.loads(error_body(400, error.code, error.message, error.param))
        demand(answer["error"]["code"] == error.code, "an answer that does not read", answer)
        return "refused", error.code, error.param
    demand(1 <= len(facts.model) <= 256, "model", facts)
    demand(facts.prompt_bytes <= len(data), "more prompt than body", facts)
    demand(0 <= facts.output_tokens_max <= 1 << 31, "output tokens", facts)
    demand(len(facts.blocks) <= len(data), "more blocks than bytes", len(facts.blocks))
    _as_json_says(data, facts)
    return "facts", facts.stream, facts.output_tokens_max > 0, bool(facts.blocks)


def _as_json_says(data: bytes, facts: RequestFacts) -> None:
    try:
        # The prompt and unknown fields stay raw, their UTF-8 is for the runtime to judge: bytes that are none pass.
        value = json.loads(data.decode("utf-8", "surrogateescape"))
    except RecursionError:
        return
    except ValueError as error:
        raise Violation(f"accepted by us, refused by json: {error}") from error
    demand(value["model"] == facts.model, "another model", value["model"], facts.model)
    demand(bool(value.get("stream")) == facts.stream, "another stream", value.get("stream"), facts.stream)
    stated = value.get("max_completion_tokens") or value.get("max_tokens") or 0
    demand(min(max(0, stated), 1 << 31) == facts.output_tokens_max, "another limit", stated, facts)


def seeds() -> Iterator[bytes]:
    yield b'{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":5}'
    yield b'{"model":"m","prompt":"abc","max_completion_tokens":7,"max_tokens":null,"stream":null}'
    yield b'{"input":["a","b"],"model":"\\u00e9\\ud83d\\ude00"}'
    yield b'{"model":"m","model":"n","messages":[],"prompt":"' + b"x" * 600 + b'"}'
    yield b'{"model":"m","max_tokens":-1,"unknown":{"a":[1e5,-0.0,true,false,null,"\\n"]}}'
    yield b'{"model":"m","max_tokens":99999999999999999999}'
    yield b'\xef\xbb\xbf{"model":"m"}'
    yield b'{"model":"m","x":' + b"[" * 400 + b"]" * 400 + b"}"
    yield b'{"model":5}'
    yield b"[]"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("infermesh.planes.data.peek", "infermesh.core.routing.prefix"),
    words=(
        b'"model":',
        b'"stream":',
        b'"messages":',
        b'"prompt":',
        b'"input":',
        b'"max_tokens":',
        b'"max_completion_tokens":',
        b"true",
        b"null",
        b"1e400",
        b"\\ud800",
        b"\\u0000",
        b"NaN",
        b"[" * 64,
        b"]" * 64,
        b'{"a":',
        b"\xed\xa0\x80",
    ),
)
