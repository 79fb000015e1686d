"""Read the body of a generating request: OpenAI's JSON in vLLM's dialect -> one `Ask`, or the error to answer.

Only what costs or shapes an answer is read; sampling parameters are accepted and ignored. Not here: whether the
model exists and whether the request fits, which the server knows.
"""

from __future__ import annotations

import array
import enum
from http import HTTPStatus
from typing import TypeVar, assert_never

import msgspec


class AskKind(enum.Enum):
    COMPLETION = enum.auto()
    CHAT = enum.auto()
    EMBEDDING = enum.auto()


class Ask(msgspec.Struct, frozen=True):
    kind: AskKind
    model: str  # "" when the client named none.
    prompts: tuple[bytes, ...]  # One, but for embeddings.
    tokens_max: int  # 0: not given.
    stream: bool
    include_usage: bool
    base64: bool  # Embeddings: packed floats in place of a list.
    cache_salt: str


class AskError(Exception):
    """The answer to a request that cannot be served, in vLLM's words and shape."""

    def __init__(
        self, status: HTTPStatus, message: str, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        return msgspec.json.encode(
            {
                "error": {
                    "message": self.message,
                    "type": self.kind,
                    "param": self.param,
                    "code": int(self.status),
                }
            }
        )


def read_ask(kind: AskKind, body: bytes) -> Ask:
    match kind:
        case AskKind.COMPLETION:
            return _read_completion(_decode(_COMPLETION, body))
        case AskKind.CHAT:
            return _read_chat(_decode(_CHAT, body))
        case AskKind.EMBEDDING:
            return _read_embedding(_decode(_EMBEDDING, body))
        case _:
            assert_never(kind)


def chat_prompt(messages: list[tuple[str, str]]) -> bytes:
    """The prompt that a chat becomes: (role, content) pairs under a plain template."""
    turns = [f"<|{role}|>\n{content}\n" for role, content in messages]
    return ("".join(turns) + "<|assistant|>\n").encode()


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Common(msgspec.Struct):
    model: str | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    cache_salt: str | None = None


class _CompletionBody(_Common):
    prompt: str | list[str | int | list[int]] | None = None


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _ChatBody(_Common):
    messages: list[_Message] | None = None
    max_completion_tokens: int | None = None


class _EmbeddingBody(msgspec.Struct):
    input: str | list[str | int | list[int]] | None = None
    model: str | None = None
    encoding_format: str | None = None


_COMPLETION = msgspec.json.Decoder(_CompletionBody)
_CHAT = msgspec.json.Decoder(_ChatBody)
_EMBEDDING = msgspec.json.Decoder(_EmbeddingBody)


_T = TypeVar("_T")


def _decode(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        problem = f"[{{'type': 'invalid', 'loc': ('body',), 'msg': {str(error)!r}}}]"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = (
            "[{'type': 'json_invalid', 'loc': ('body', 0), 'msg': 'JSON decode error', 'input': {}, "
            f"'ctx': {{'error': {str(error)!r}}}}}]"
        )
    raise AskError(HTTPStatus.BAD_REQUEST, problem, "Bad Request")


def _read_completion(body: _CompletionBody) -> Ask:
    prompts = _prompts(body.prompt, "prompt")
    if len(prompts) != 1:
        raise AskError(
            HTTPStatus.BAD_REQUEST,
            f"The emulated engine answers one prompt a request, not {len(prompts)}.",
            param="prompt",
        )
    return _ask(AskKind.COMPLETION, body, prompts, body.max_tokens)


def _read_chat(body: _ChatBody) -> Ask:
    if not body.messages:
        raise _missing("messages")
    prompt = chat_prompt([(message.role, _content(message)) for message in body.messages])
    tokens = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return _ask(AskKind.CHAT, body, (prompt,), tokens)


def _read_embedding(body: _EmbeddingBody) -> Ask:
    return Ask(
        AskKind.EMBEDDING,
        body.model or "",
        _prompts(body.input, "input"),
        tokens_max=1,
        stream=False,
        include_usage=False,
        base64=body.encoding_format == "base64",
        cache_salt="",
    )


def _ask(kind: AskKind, body: _Common, prompts: tuple[bytes, ...], tokens: int | None) -> Ask:
    if body.n not in (None, 1):
        raise AskError(HTTPStatus.BAD_REQUEST, f"The emulated engine answers n=1 only, not n={body.n}.", param="n")
    if tokens is not None and tokens < 1:
        raise AskError(
            HTTPStatus.BAD_REQUEST,
            f"max_tokens must be at least 1, got {tokens}. (parameter=max_tokens, value={tokens})",
            param="max_tokens",
        )
    options = body.stream_options
    return Ask(
        kind,
        body.model or "",
        prompts,
        tokens_max=tokens or 0,
        stream=bool(body.stream),
        include_usage=options is not None and options.include_usage,
        base64=False,
        cache_salt=body.cache_salt or "",
    )


def _content(message: _Message) -> str:
    match message.content:
        case None:
            return ""
        case str(text):
            return text
        case parts:
            return "\n".join(part.text for part in parts)


def _prompts(given: str | list[str | int | list[int]] | None, param: str) -> tuple[bytes, ...]:
    """Text as its bytes; token ids as four bytes each, so that both count alike."""
    if given is None or given == []:
        raise _missing(param)
    if isinstance(given, str):
        return (given.encode(),)
    ids = [entry for entry in given if isinstance(entry, int)]
    if len(ids) == len(given):
        return (_token_bytes(ids),)
    if ids:
        raise AskError(HTTPStatus.BAD_REQUEST, f"{param} mixes token ids and prompts.", param=param)
    return tuple(
        entry.encode() if isinstance(entry, str) else _token_bytes(entry)
        for entry in given
        if not isinstance(entry, int)
    )


def _token_bytes(ids: list[int]) -> bytes:
    try:
        return array.array("I", ids).tobytes()
    except OverflowError:
        raise AskError(HTTPStatus.BAD_REQUEST, "Token ids must be from 0 to 4294967295.") from None


def _missing(param: str) -> AskError:
    return AskError(
        HTTPStatus.BAD_REQUEST,
        f"[{{'type': 'missing', 'loc': ('body', '{param}'), 'msg': 'Field required'}}]",
        "Bad Request",
    )
