"""The JSON that answers carry, in the shapes of a captured vLLM 0.32, built with as little work as will do.

A stream's events differ in one token's text, so all around it is built once per answer, framing included.
Text needs no escaping: tokens are hexadecimal digits, digits and spaces (see prompts).
"""

from __future__ import annotations

import array
import base64
from collections.abc import Sequence

import msgspec

from infermesh.emulator.asks import Ask, AskKind
from infermesh.emulator.prompts import embedding

VERSION = "0.32.0+emulated"  # A local version of the release whose API this is.
FINGERPRINT = "vllm-0.32.0-emulated"
OWNER = "infermesh-emulator"

_TEXT_BYTES_MAX = 16  # A space and a number below 10^15.


class StreamShape:
    """The bytes of one streamed answer."""

    __slots__ = ("_after", "_ask", "_before", "_framed", "_head", "_id", "_tail", "opening")

    def __init__(self, ask: Ask, response_id: str, created: int, *, framed: bool) -> None:
        """`framed`: as chunks of HTTP/1.1; else bare, for a client of HTTP/1.0 that reads to the end."""
        name = msgspec.json.encode(ask.model)
        chat = ask.kind is AskKind.CHAT
        kind = b"chat.completion.chunk" if chat else b"text_completion"
        self._ask = ask
        self._framed = framed
        self._head = b'data: {"id":"%b","object":"%b","created":%d,"model":%b,"choices":[' % (
            response_id.encode(),
            kind,
            created,
            name,
        )
        if chat:
            self._tail = b'"},"logprobs":null,"finish_reason":'
            before = self._head + b'{"index":0,"delta":{"content":"'
            after = self._tail + b'null,"token_ids":null}]}\n\n'
            role = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
            self.opening = self._frame(self._head + role + b',"prompt_token_ids":null,"prompt_text":null}\n\n')
        else:
            self._tail = b'","logprobs":null,"finish_reason":'
            before = self._head + b'{"index":0,"text":"'
            after = self._tail + b'null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}\n\n'
            self.opening = b""
        fixed = len(before) + len(after)
        # One beginning for each length of text, because a chunk's size comes first.
        self._before = [
            b"%x\r\n%b" % (fixed + length, before) if framed else before for length in range(_TEXT_BYTES_MAX + 1)
        ]
        self._after = after + b"\r\n" if framed else after

    def token(self, text: bytes) -> bytes:
        return self._before[len(text)] + text + self._after

    def ending(self, text: bytes, finish_reason: str, prompt_tokens: int, completion_tokens: int) -> bytes:
        """The last token's event, the usage if it was asked for, and the mark of the end."""
        reason = finish_reason.encode()
        if self._ask.kind is AskKind.CHAT:
            body = b'{"index":0,"delta":{"content":"%b%b"%b","stop_reason":null,"token_ids":null}]' % (
                text,
                self._tail,
                reason,
            )
            last = self._head + body + b',"system_fingerprint":"%b"}\n\n' % FINGERPRINT.encode()
        else:
            body = b'{"index":0,"text":"%b%b"%b","stop_reason":null,"prompt_token_ids":null,"token_ids":null}]' % (
                text,
                self._tail,
                reason,
            )
            last = self._head + body + b"}\n\n"
        events = self._frame(last)
        if self._ask.include_usage:
            usage = b'],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (
                prompt_tokens,
                prompt_tokens + completion_tokens,
                completion_tokens,
            )
            events += self._frame(self._head + usage + b',"system_fingerprint":"%b"}\n\n' % FINGERPRINT.encode())
        return events + self._frame(b"data: [DONE]\n\n")

    def _frame(self, event: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(event), event) if self._framed else event


def unary_body(
    ask: Ask, response_id: str, created: int, *, text: str, finish_reason: str, usage: tuple[int, int]
) -> bytes:
    """The whole answer to a completion or a chat. `usage`: prompt and completion tokens."""
    choice: dict[str, object]
    if ask.kind is AskKind.CHAT:
        message = {
            "role": "assistant",
            "content": text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": None,
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason,
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }
        extra: dict[str, object] = {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None}
    else:
        choice = {
            "index": 0,
            "text": text,
            "logprobs": None,
            "finish_reason": finish_reason,
            "stop_reason": None,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }
        extra = {}
    return msgspec.json.encode(
        {
            "id": response_id,
            "object": "chat.completion" if ask.kind is AskKind.CHAT else "text_completion",
            "created": created,
            "model": ask.model,
            "choices": [choice],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": _usage(*usage),
            **extra,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
    )


def embedding_body(ask: Ask, response_id: str, created: int, prompt_tokens: int, seed: int) -> bytes:
    rows: list[dict[str, object]] = []
    for index, prompt in enumerate(ask.prompts):
        vector: object = embedding(prompt, seed)
        if ask.base64:
            packed = array.array("f", embedding(prompt, seed)).tobytes()
            vector = base64.b64encode(packed).decode()
        rows.append({"index": index, "object": "embedding", "embedding": vector})
    return msgspec.json.encode(
        {
            "id": response_id,
            "object": "list",
            "created": created,
            "model": ask.model,
            "data": rows,
            "usage": _usage(prompt_tokens, 0),
        }
    )


def models_body(models: Sequence[str], created: int, context_tokens_max: int) -> bytes:
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [_model_row(model, created, context_tokens_max) for model in models],
        }
    )


def _model_row(model: str, created: int, context_tokens_max: int) -> dict[str, object]:
    permission: dict[str, object] = {
        "id": "modelperm-emulated",
        "object": "model_permission",
        "created": created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": model,
        "object": "model",
        "created": created,
        "owned_by": OWNER,
        "root": model,
        "parent": None,
        "max_model_len": context_tokens_max,
        "permission": [permission],
    }


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
