from __future__ import annotations

import json

import msgspec
import pytest

from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.websocket_messages import (
    done_message,
    error_message,
    kind_of,
    relayed_error_message,
    request_body,
    request_head,
)
from wire.http1 import RequestHead, parse_request_head


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b'{"type":"cancel"}', "cancel"),
        (b' { "model" : "m" , "type" : "x" } ', "x"),
        (b'{"model":"m"}', None),
        (b'{"type":null}', None),
        (b'{"type":1}', None),
        (b"[]", None),
        (b"nonsense", None),
        (b"", None),
        (b"[" * 10_000, None),
    ],
)
def test_a_message_has_a_type_or_is_a_request(message: bytes, kind: str | None) -> None:
    assert kind_of(message) == kind


def test_a_request_is_made_one_for_a_stream_and_keeps_its_text() -> None:
    message = b' {"model": "m",  "temperature": 0.10 }'
    assert request_body(message) == b'{"stream":true,"model": "m",  "temperature": 0.10 }'
    assert msgspec.json.decode(request_body(message)) == {"stream": True, "model": "m", "temperature": 0.1}


@pytest.mark.parametrize("message", [b'{"stream":true,"model":"m"}', b'{"model":"m","stream": true }'])
def test_a_request_that_asks_for_a_stream_is_left_alone(message: bytes) -> None:
    assert request_body(message) == message


def test_null_is_as_good_as_nothing_and_is_replaced() -> None:
    body = request_body(b'{"model":"m","stream":null,"seed":18446744073709551617}')
    assert body == b'{"model":"m","stream":true,"seed":18446744073709551617}'


@pytest.mark.parametrize("value", [b"false", b"0", b'"true"'])
def test_a_request_that_wants_no_stream_is_refused(value: bytes) -> None:
    with pytest.raises(RequestRefused) as caught:
        request_body(b'{"model":"m","stream":%b}' % value)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_stream", "stream")


@pytest.mark.parametrize("message", [b"nonsense", b"[]", b"", b"\xff", b"[" * 10_000])
def test_what_is_no_object_is_left_for_whoever_reads_bodies(message: bytes) -> None:
    assert request_body(message) == message


def test_an_empty_object_becomes_an_object() -> None:
    assert msgspec.json.decode(request_body(b"{}")) == {"stream": True}


def test_the_head_of_a_request_has_the_fields_of_the_opening_that_are_not_about_the_opening() -> None:
    opening = parse_request_head(
        b"GET /v1/completions?x=1 HTTP/1.1\r\nHost: mesh\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\nOrigin: https://a\r\nAccept-Encoding: br\r\n"
        b"Authorization: Bearer t\r\ntraceparent: 00-x\r\nx-infermesh-priority: high\r\n\r\n"
    )
    head = request_head(opening, 7)
    assert head == RequestHead(
        b"POST",
        b"/v1/completions?x=1",
        1,
        [
            (b"host", b"mesh"),
            (b"authorization", b"Bearer t"),
            (b"traceparent", b"00-x"),
            (b"x-infermesh-priority", b"high"),
            (b"content-type", b"application/json"),
        ],
        [
            b"Host: mesh",
            b"Authorization: Bearer t",
            b"traceparent: 00-x",
            b"x-infermesh-priority: high",
            b"content-type: application/json",
        ],
        7,
        True,
        b"mesh",
        b"",
    )


def test_the_last_message_says_who_answered_and_how() -> None:
    assert json.loads(done_message("id", "gpu-a", 2, cancelled=False)) == {
        "object": "infermesh.done",
        "request_id": "id",
        "node": "gpu-a",
        "attempts": 2,
        "cancelled": False,
    }
    assert json.loads(done_message("id", "", 0, cancelled=True))["node"] is None


def test_an_error_is_openais_with_status_and_when_to_come_back() -> None:
    refused = RequestRefused(429, "queue_full", "busy", retry_after_s=2.34567)
    assert json.loads(error_message(refused, "id", 1)) == {
        "object": "infermesh.error",
        "error": {
            "message": "busy",
            "type": "rate_limit_error",
            "code": "queue_full",
            "param": None,
            "status": 429,
            "retry_after_s": 2.346,
        },
        "request_id": "id",
        "attempts": 1,
        "final": True,
    }


def test_an_error_about_no_request_has_no_id_and_is_not_final() -> None:
    value = json.loads(error_message(RequestRefused(409, "request_under_way", "wait"), "", final=False))
    assert (value["request_id"], value["final"], "attempts" in value) == (None, False, False)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b'{"error":{"message":"too long","type":"BadRequestError","param":"max_tokens","code":400}}',
            {"message": "too long", "type": "BadRequestError", "code": 400, "param": "max_tokens"},
        ),
        (
            b'{"object":"error","message":"no","type":"X","code":404}',
            {"message": "no", "type": "X", "code": 404, "param": None},
        ),
        (
            b'{"error":"plain words"}',
            {"message": "plain words", "type": "invalid_request_error", "code": None, "param": None},
        ),
        (b"<html>", {"message": "<html>", "type": "invalid_request_error", "code": None, "param": None}),
        (
            b"",
            {
                "message": "the runtime gave no reason",
                "type": "invalid_request_error",
                "code": None,
                "param": None,
            },
        ),
    ],
)
def test_a_runtimes_error_is_said_in_the_same_words(body: bytes, expected: dict[str, object]) -> None:
    value = json.loads(relayed_error_message(400, body, "id", 1))
    assert value["error"] == {**expected, "status": 400}
    assert value["final"] is True
