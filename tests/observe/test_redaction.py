import enum

import pytest

from infermesh.observe.redaction import (
    ITEMS_MAX,
    REDACTED,
    TEXT_CHARS_MAX,
    TRACE_CHARS_MAX,
    clean_field,
    is_secret_name,
)

KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "proxy-authorization",
        "api_key",
        "X-Api-Key",
        "apiKey",
        "apikey",
        "password",
        "db_password",
        "join_token",
        "token",
        "accessToken",
        "client_secret",
        "set-cookie",
        "private_key",
        "key_material",
        "keyring",
    ],
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("prompt_tokens", "tokens", "output_tokens_max", "token_file", "key_file", "api_key_id", "key"),
        *("public_key", "first_token_ms", "target", "node", "", "___"),
    ],
)
def test_names_of_other_things_are_left_alone(name: str) -> None:
    assert not is_secret_name(name)


def test_a_number_is_never_a_secret() -> None:
    assert clean_field("first_token", 12.5) == 12.5
    assert clean_field("token", 7) == 7


@pytest.mark.parametrize("value", ["hunter2", b"hunter2", ["hunter2"], {"a": "hunter2"}])
def test_the_value_under_a_secret_name_is_redacted_whole(value: object) -> None:
    assert clean_field("password", value) == REDACTED


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"key is {KEY} end", "key is [redacted] end"),
        (KEY[:40], REDACTED),
        ("sent Bearer abcdefghijkl.mnop-123= to x", "sent [redacted] to x"),
        ("headers: Authorization: Basic dXNlcjpwYXNz, host: a", "headers: [redacted], host: a"),
        ("'authorization': 'abc'", "'[redacted]'"),
        ("key sk-proj-0123456789abcdef refused", "key [redacted] refused"),
        ("got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_1", "got [redacted]"),
        ("dial http://user:pass@host:80/x", "dial http://[redacted]@host:80/x"),
        ("mail a@b, bearer of news, basic checks, task-1", "mail a@b, bearer of news, basic checks, task-1"),
    ],
)
def test_texts_that_hold_a_secret_lose_it(text: str, left: str) -> None:
    assert clean_field("message", text) == left


def test_secrets_inside_mappings_lists_and_bytes_are_found() -> None:
    headers = {"host": "a", "authorization": "x", "list": [b"Bearer abcdefghijklmnop"], 5: 1}
    assert clean_field("headers", headers) == {"host": "a", "authorization": REDACTED, "list": [REDACTED], "5": 1}


def test_long_values_are_cut_and_say_so() -> None:
    cut = clean_field("message", "a" * TEXT_CHARS_MAX + "zz")
    assert isinstance(cut, str)
    assert "[2 characters cut]" in cut
    assert cut.endswith("zz")
    trace = "t" * TRACE_CHARS_MAX
    assert clean_field("exception", trace) == trace
    items = clean_field("items", list(range(1000)))
    assert isinstance(items, list)
    assert len(items) == ITEMS_MAX


def test_deep_and_endless_values_end() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert clean_field("x", loop) == [[[["[list]"]]]]


def test_other_values_are_written_in_words() -> None:
    class Color(enum.StrEnum):
        RED = "red"

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert clean_field("x", Color.RED) == "red"
    assert clean_field("x", ValueError("bad")) == "bad"
    assert clean_field("x", ValueError()) == "ValueError()"
    assert clean_field("x", {"b", "a"}) == ["a", "b"]
    assert clean_field("x", None) is None
    assert clean_field("x", Broken()) == "[Broken without words: RuntimeError]"
