"""Reading an answer: tokens and their moments are the same however the bytes are cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from infermesh.cli.replay.answer import Answer, BadAnswer

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    b"X-Infermesh-Node: gpu-a\r\n\r\n"
)
LAST = b"0\r\n\r\n"


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def _text(word: str, end: bytes = b"\n\n") -> bytes:
    return b'data: {"choices":[{"index":0,"text":"%b","finish_reason":null}]}' % word.encode() + end


def _delta(word: str) -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % word.encode()


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"total_tokens":10,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'


def _fed(pieces: Sequence[tuple[float, bytes]]) -> Answer:
    answer = Answer()
    for now, data in pieces:
        answer.feed(data, now)
    return answer


def test_tokens_are_counted_and_timed_and_marks_are_not_tokens() -> None:
    answer = _fed(
        [
            (1.0, HEAD),
            (1.5, _chunk(_text("a"))),
            (1.75, _chunk(_text(" b"))),
            (2.5, _chunk(_text(" c")) + _chunk(USAGE) + _chunk(DONE) + LAST),
        ]
    )
    assert answer.complete
    assert answer.done_mark
    assert answer.keep_alive
    assert (answer.status, answer.headers[b"x-infermesh-node"]) == (200, b"gpu-a")
    assert (answer.tokens, answer.prompt_tokens, answer.completion_tokens) == (3, 7, 3)
    assert (answer.first_token_at, answer.last_token_at, answer.last_byte_at) == (1.5, 2.5, 2.5)
    assert list(answer.gaps_s) == [0.25, 0.75]


def test_the_role_of_a_chat_and_comments_and_empty_text_are_no_first_token() -> None:
    answer = _fed(
        [
            (1.0, HEAD + _chunk(ROLE)),
            (2.0, _chunk(b": keep-alive\n\n")),
            (3.0, _chunk(_delta("a"))),
            (4.0, _chunk(_delta("b")) + _chunk(b": keep-alive\n\n") + _chunk(_delta(""))),
            (5.0, _chunk(DONE) + LAST),
        ]
    )
    assert (answer.first_event_at, answer.first_token_at, answer.tokens) == (1.0, 3.0, 2)
    assert list(answer.gaps_s) == [1.0]


def test_tokens_that_come_together_have_no_gap_between_them() -> None:
    answer = _fed([(1.0, HEAD + _chunk(_text("a"))), (2.0, _chunk(_text("b") + _text("c")) + _chunk(_text("d")))])
    assert answer.tokens == 4
    assert sorted(answer.gaps_s) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"], ids=["lf", "crlf"])
def test_any_cut_gives_the_same_count(end: bytes) -> None:
    events = _text("data: x\\n", end) + _text("[DONE]", end) + _text("c", end) + b"data: [DONE]" + end
    whole = HEAD + _chunk(events[:50]) + _chunk(events[50:]) + LAST
    for size in (1, 2, 3, 7, 64, len(whole)):
        pieces = [(1.0, whole[start : start + size]) for start in range(0, len(whole), size)]
        answer = _fed(pieces)
        assert (answer.tokens, answer.done_mark, answer.complete) == (3, True, True), size


def test_an_error_event_is_heard_and_is_no_token() -> None:
    error = b'data: {"error":{"message":"the stream broke off","type":"server_error","code":"stream_broken"}}\n\n'
    answer = _fed([(1.0, HEAD + _chunk(_text("a"))), (2.0, _chunk(b"\n\n" + error))])
    assert (answer.error_message, answer.tokens, answer.complete) == ("the stream broke off", 1, False)
    assert not answer.end()


def test_a_token_that_speaks_of_errors_is_a_token() -> None:
    answer = _fed([(1.0, HEAD + _chunk(_text("a"))), (2.0, _chunk(_text('\\"error\\":') + _text('{\\"error\\":')))])
    assert (answer.error_message, answer.tokens) == ("", 3)


def test_a_refusal_keeps_its_words() -> None:
    body = b'{"error": {"message": "too many requests: try \\"later\\"", "code": "queue_full"}}'
    head = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3\r\ncontent-length: %d\r\n\r\n" % len(body)
    answer = _fed([(1.0, head + body[:20]), (1.1, body[20:])])
    assert (answer.status, answer.complete, answer.headers[b"retry-after"]) == (429, True, b"3")
    assert answer.error_message == 'too many requests: try \\"later\\"'


def test_interim_answers_are_passed_over() -> None:
    answer = _fed([(1.0, b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + HEAD + _chunk(_text("a")) + LAST)])
    assert (answer.status, answer.tokens, answer.complete) == (200, 1, True)
    assert b"link" not in answer.headers


def test_an_answer_without_framing_ends_with_its_connection() -> None:
    answer = _fed([(1.0, b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + _text("a") + DONE)])
    assert not answer.complete
    assert answer.end()
    assert (answer.done_mark, answer.keep_alive) == (True, False)


def test_nothing_at_all_is_no_answer() -> None:
    answer = Answer()
    assert not answer.begun
    assert not answer.end()


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH\r\n\r\n", b"\0" * 64], ids=["ssh", "zeros"])
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(BadAnswer, match=r"no HTTP/1\.1 answer"):
        _fed([(1.0, garbage)])


def test_an_event_without_an_end_is_refused_in_time() -> None:
    answer = Answer()
    answer.feed(HEAD, 1.0)
    with pytest.raises(BadAnswer, match="an event of over"):
        for _ in range(20):
            answer.feed(_chunk(b"x" * 65_536), 1.0)
