"""Requests for completions, and whether an answer to one is whole: the emulator's answers follow from the prompt."""

from __future__ import annotations

from typing import Final

import msgspec

from infermesh.emulator import answer_text
from infermesh.testing.h11_client import H11Client
from infermesh.testing.mesh_plan import MODEL

PATH: Final = "/v1/completions"


def completion_body(prompt: str = "hello", tokens: int = 4, *, stream: bool = False, model: str = MODEL) -> bytes:
    return msgspec.json.encode({"model": model, "prompt": prompt, "max_tokens": tokens, "stream": stream})


def completion_request(prompt: str = "hello", tokens: int = 4, *, stream: bool = False, model: str = MODEL) -> bytes:
    """A whole request as bytes, for connections that no client library would make."""
    body = completion_body(prompt, tokens, stream=stream, model=model)
    head = (
        b"POST /v1/completions HTTP/1.1\r\nhost: mesh\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    return head % len(body) + body


def expected_text(prompt: str, tokens: int) -> str:
    """What an emulated engine answers, whichever node it runs on."""
    return answer_text(prompt.encode(), tokens)


def unary_text(body: bytes) -> str:
    text = msgspec.json.decode(body)["choices"][0]["text"]
    assert isinstance(text, str)
    return text


def event_text(event: str) -> str:
    """The text in one event of a stream; "" for one that carries none, and for the mark of the end.

    Fails for an event that says that the stream broke.
    """
    if event == "[DONE]":
        return ""
    value = msgspec.json.decode(event)
    assert "error" not in value, f"the stream broke: {value['error']}"
    choices = value.get("choices", [])
    return "".join(choice["text"] for choice in choices)


async def rest_of_stream(client: H11Client) -> tuple[str, bool]:
    """The text of the events to come, and whether the stream said that it was done."""
    text, done = "", False
    async for event in client.events():
        done = event == "[DONE]"
        text += event_text(event)
    return text, done


def error_code(body: bytes) -> str:
    """The `code` of an OpenAI-style error; fails when the body is not exactly of that shape."""
    error = msgspec.json.decode(body)["error"]
    assert set(error) == {"message", "type", "code", "param"}, error
    assert error["message"], error
    code = error["code"]
    assert isinstance(code, str)
    return code


def embedding_request(inputs: int, *, model: str = MODEL) -> bytes:
    """A whole request whose answer is about 500 bytes for each input: the way to an answer larger than all buffers."""
    body = msgspec.json.encode({"model": model, "input": ["a"] * inputs})
    return b"POST /v1/embeddings HTTP/1.1\r\nhost: mesh\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
