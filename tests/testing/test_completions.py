from __future__ import annotations

import msgspec
import pytest

from infermesh.testing.completions import (
    completion_request,
    embedding_request,
    error_code,
    event_text,
    expected_text,
    unary_text,
)
from wire.http1 import head_end, parse_request_head


@pytest.mark.parametrize("request_bytes", [completion_request("hello", 3), embedding_request(5)])
def test_a_request_is_whole(request_bytes: bytes) -> None:
    end = head_end(request_bytes)
    assert parse_request_head(request_bytes[:end]).framing == len(request_bytes) - end


def test_the_answer_to_a_prompt_is_known_beforehand() -> None:
    assert expected_text("hello", 4).endswith(" 1 2 3")
    assert expected_text("hello", 4) != expected_text("hallo", 4)


def test_texts_are_found_in_answers_and_in_events() -> None:
    assert unary_text(b'{"choices": [{"text": "abc"}]}') == "abc"
    assert event_text('{"choices": [{"text": " 1"}]}') == " 1"
    assert event_text('{"choices": [], "usage": {}}') == ""
    assert event_text("[DONE]") == ""


def test_an_error_must_have_the_whole_shape() -> None:
    whole = {"message": "no", "type": "server_error", "code": "no_answer", "param": None}
    assert error_code(msgspec.json.encode({"error": whole})) == "no_answer"
    for missing in whole:
        with pytest.raises(AssertionError):
            error_code(msgspec.json.encode({"error": {name: whole[name] for name in whole if name != missing}}))
