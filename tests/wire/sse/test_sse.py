from __future__ import annotations

from wire.sse import count_events, encode_event, usage_tokens


def test_events_are_counted_by_their_field() -> None:
    assert count_events(b'data: {"a":1}\n\ndata: [DONE]\n\n') == 2


def test_an_event_is_one_line_of_json() -> None:
    assert encode_event({"error": "a\nb"}) == b'data: {"error":"a\\nb"}\n\n'


def test_usage_is_found_at_the_end_of_an_answer() -> None:
    tail = b'{"x":"\\"usage\\"","usage":{"prompt_tokens":7,"total_tokens":9,"completion_tokens": 2}}'
    assert usage_tokens(tail) == (7, 2)


def test_an_answer_without_usage_states_nothing() -> None:
    assert usage_tokens(b'data: {"usage":null}') == (0, 0)
    assert usage_tokens(b"") == (0, 0)
