"""Bodies of generating requests: what is read of them, and what is said about bad ones."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.emulator.asks import Ask, AskError, AskKind, chat_prompt, read_ask


def _read(kind: AskKind, **body: object) -> Ask:
    return read_ask(kind, json.dumps(body).encode())


def test_a_completion_is_read_with_its_options() -> None:
    ask = _read(
        AskKind.COMPLETION,
        model="m",
        prompt="hello",
        max_tokens=7,
        stream=True,
        stream_options={"include_usage": True},
        cache_salt="tenant",
        temperature=0.5,
    )
    assert ask == Ask(AskKind.COMPLETION, "m", (b"hello",), 7, True, True, False, "tenant")


def test_a_chat_joins_its_messages_and_prefers_max_completion_tokens() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    ask = _read(AskKind.CHAT, messages=messages, max_tokens=3, max_completion_tokens=9)
    assert ask.prompts == (chat_prompt([("system", "be brief"), ("user", "a\nb"), ("assistant", "")]),)
    assert ask.tokens_max == 9
    assert ask.model == ""


def test_a_longer_chat_begins_with_the_shorter_one() -> None:
    short = chat_prompt([("user", "hi")]).removesuffix(b"<|assistant|>\n")
    assert chat_prompt([("user", "hi"), ("assistant", "yes")]).startswith(short)


def test_token_ids_count_four_bytes_each() -> None:
    assert _read(AskKind.COMPLETION, prompt=[1, 2, 3]).prompts == (b"\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00",)
    assert _read(AskKind.COMPLETION, prompt=[[5]]).prompts == (b"\x05\x00\x00\x00",)
    assert _read(AskKind.COMPLETION, prompt=["one"]).prompts == (b"one",)


def test_an_embedding_takes_many_inputs() -> None:
    ask = _read(AskKind.EMBEDDING, model="m", input=["a", "b"], encoding_format="base64")
    assert (ask.prompts, ask.base64, ask.tokens_max) == ((b"a", b"b"), True, 1)


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        (AskKind.COMPLETION, b"", "json_invalid"),
        (AskKind.COMPLETION, b"{nope", "json_invalid"),
        (AskKind.COMPLETION, b'{"prompt": "\xff"}', "json_invalid"),
        (AskKind.COMPLETION, b"[]", "invalid"),
        (AskKind.COMPLETION, b"{}", "'prompt'"),
        (AskKind.COMPLETION, b'{"prompt": []}', "'prompt'"),
        (AskKind.COMPLETION, b'{"prompt": ["a", "b"]}', "one prompt a request, not 2"),
        (AskKind.COMPLETION, b'{"prompt": [1, "a"]}', "mixes token ids and prompts"),
        (AskKind.COMPLETION, b'{"prompt": [-1]}', "from 0 to 4294967295"),
        (AskKind.COMPLETION, b'{"prompt": "x", "max_tokens": 0}', "at least 1, got 0"),
        (AskKind.COMPLETION, b'{"prompt": "x", "max_tokens": "many"}', "max_tokens"),
        (AskKind.COMPLETION, b'{"prompt": "x", "n": 2}', "n=2"),
        (AskKind.CHAT, b'{"messages": []}', "'messages'"),
        (AskKind.CHAT, b'{"messages": [{"content": "x"}]}', "role"),
        (AskKind.EMBEDDING, b"{}", "'input'"),
    ],
)
def test_a_bad_body_is_answered_400_in_the_shape_of_the_api(kind: AskKind, body: bytes, words: str) -> None:
    with pytest.raises(AskError) as caught:
        read_ask(kind, body)
    error = json.loads(caught.value.body())["error"]
    assert words in error["message"]
    assert error["code"] == 400
    assert set(error) == {"message", "type", "param", "code"}


@given(kind=st.sampled_from(AskKind), body=st.binary(max_size=200))
def test_no_body_gets_past_as_anything_but_an_ask_or_an_ask_error(kind: AskKind, body: bytes) -> None:
    try:
        ask = read_ask(kind, body)
    except AskError as error:
        json.loads(error.body())
    else:
        assert ask.prompts


_TEXT = st.sampled_from(["", "a", "role", "content", 'é"\\', "\ud800"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(0.5) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(
    kind=st.sampled_from(AskKind),
    body=st.dictionaries(
        st.sampled_from(["model", "prompt", "messages", "input", "max_tokens", "stream", "n", "role"]), _JSON
    ),
)
def test_no_json_gets_past_as_anything_but_an_ask_or_an_ask_error(kind: AskKind, body: dict[str, object]) -> None:
    try:
        ask = read_ask(kind, json.dumps(body).encode())
    except AskError as error:
        json.loads(error.body())
    else:
        assert ask.prompts
