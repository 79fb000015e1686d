"""The bytes of the benchmark's exchanges: an OpenAI-style request and what a vLLM server answers.

Values only. Sizes follow the benchmark's contract: about 1 KB of JSON each way for a unary exchange, about
200 bytes of SSE per streamed chunk. Every event carries exactly one MARK byte, so that a client can count
events by counting one byte, whatever way a router has cut or joined the chunks.
"""

from __future__ import annotations

import json

MODEL = "tiny"
MARK = b"~"

_PROMPT = (
    "You are a scheduler of GPU work. Explain to an operator, in plain words, why a request was sent to the "
    "node it was sent to, and what would have happened on the others. "
) * 4


def request_body(stream_id: str, *, stream: bool) -> bytes:
    document = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Answer shortly."},
            {"role": "user", "content": _PROMPT},
        ],
        "max_tokens": 64,
        "temperature": 0.7,
        "stream": stream,
        "user": stream_id,
    }
    # Compact, as OpenAI's client writes it and as routers that parse and rewrite the body do.
    padding = 1024 - len(json.dumps(document, separators=(",", ":"))) - len(',"metadata":{"note":""}')
    document["metadata"] = {"note": "x" * max(0, padding)}
    return json.dumps(document, separators=(",", ":")).encode()


def request_bytes(stream_id: str, *, stream: bool, host: str) -> bytes:
    body = request_body(stream_id, stream=stream)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        "User-Agent: infermesh-bench/1\r\n"
        f"Accept: {'text/event-stream' if stream else 'application/json'}\r\n"
        "Accept-Encoding: identity\r\n"
        "Authorization: Bearer sk-bench-0123456789abcdef\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "\r\n"
    )
    return head.encode() + body


def _unary_body() -> bytes:
    document = {
        "id": "chatcmpl-9295376132874c66",
        "object": "chat.completion",
        "created": 1795483732,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A node with a short queue answers first. " * 16},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 152, "total_tokens": 216, "completion_tokens": 64},
    }
    body = json.dumps(document).encode()
    return body + b" " * max(0, 1023 - len(body)) + b"\n"


UNARY_BODY = _unary_body()
UNARY_RESPONSE = (
    b"HTTP/1.1 200 OK\r\n"
    b"date: Tue, 24 Nov 2026 12:00:00 GMT\r\n"
    b"server: uvicorn\r\n"
    b"content-length: %d\r\n"
    b"content-type: application/json\r\n"
    b"\r\n" % len(UNARY_BODY)
) + UNARY_BODY

MODELS_BODY = json.dumps(
    {
        "object": "list",
        "data": [
            {
                "id": MODEL,
                "object": "model",
                "created": 1795483731,
                "owned_by": "vllm",
                "root": MODEL,
                "parent": None,
                "max_model_len": 4096,
            }
        ],
    }
).encode()

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"date: Tue, 24 Nov 2026 12:00:00 GMT\r\n"
    b"server: uvicorn\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n"
    b"\r\n"
)


def event(stream_id: str) -> bytes:
    """One SSE event of about 200 bytes that names its stream, so that a mixed-up relay is seen."""
    document = {
        "id": f"chatcmpl-{stream_id:0>16}",
        "object": "chat.completion.chunk",
        "created": 1795483732,
        "model": MODEL,
        "choices": [{"index": 0, "delta": {"content": " tok" + MARK.decode()}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def chunk(payload: bytes) -> bytes:
    """RFC 9112 section 7.1."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


DONE_EVENT = b"data: [DONE]\n\n"
STREAM_END = chunk(DONE_EVENT) + b"0\r\n\r\n"
