"""The official `openai` package through the router: answers, streams, models, and its error classes."""

from __future__ import annotations

import base64
import operator
import struct
import time
from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from infermesh.emulator import answer_text
from infermesh.emulator.asks import chat_prompt
from tests.interop.conftest import STEP_S
from tests.interop.exchange import wait_until
from tests.interop.fleet import MODEL, Fleet

pytestmark = [pytest.mark.interop, pytest.mark.slow]

TOKENS = 40
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "which node is the fastest?"},
]
CHAT_TEXT = answer_text(chat_prompt([("system", "be brief"), ("user", "which node is the fastest?")]), TOKENS)


@pytest.fixture
def client(fleet: Fleet) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="sk-interop", max_retries=0, timeout=20) as made:
        yield made


def _running(fleet: Fleet) -> int:
    return sum(daemon.engine()["running"] for daemon in fleet.gpus)


def test_a_chat_streams_its_first_token_long_before_the_last_is_generated(client: openai.OpenAI, fleet: Fleet) -> None:
    sent_at = time.monotonic()
    times: list[float] = []
    text = ""
    still_running = 0
    with client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=TOKENS, stream=True, stream_options={"include_usage": True}
    ) as stream:
        for chunk in stream:
            content = chunk.choices[0].delta.content if chunk.choices else ""
            if content:
                text += content
                times.append(time.monotonic() - sent_at)
            if len(times) == 1 and not still_running:
                still_running = _running(fleet)
            usage = chunk.usage
    assert text == CHAT_TEXT
    assert len(times) == TOKENS
    assert usage is not None
    assert usage.completion_tokens == TOKENS
    assert still_running == 1, "the engine had ended when the first token arrived"
    # The engine makes a token each STEP_S: a router that collects them would deliver all of them at once.
    assert times[-1] - times[0] > 0.5 * (TOKENS - 1) * STEP_S


def test_a_completion_streams_token_by_token(client: openai.OpenAI) -> None:
    times: list[float] = []
    texts: list[str] = []
    for chunk in client.completions.create(model=MODEL, prompt="a stream", max_tokens=TOKENS, stream=True):
        times.append(time.monotonic())
        texts.append(chunk.choices[0].text)
    assert "".join(texts) == answer_text(b"a stream", TOKENS)
    assert len(times) == TOKENS
    assert times[-1] - times[0] > 0.5 * (TOKENS - 1) * STEP_S
    assert sum(gap > 0.001 for gap in map(operator.sub, times[1:], times)) > TOKENS / 2, "tokens came in heaps"


def test_whole_answers_of_chat_and_completion(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=5)
    chat = raw.parse()
    assert CHAT_TEXT.startswith(chat.choices[0].message.content or "nothing")
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 5
    assert raw.headers["x-infermesh-node"] in ("gpu-a", "gpu-b")
    assert raw.headers["x-infermesh-attempts"] == "1"
    assert len(raw.headers["x-infermesh-request-id"]) == 32
    assert "x-infermesh-load" not in raw.headers
    completion = client.completions.create(model=MODEL, prompt="whole", max_tokens=7)
    assert completion.choices[0].text == answer_text(b"whole", 7)


def test_embeddings_as_numbers_and_as_the_base64_that_the_client_asks_for(client: openai.OpenAI) -> None:
    decoded = client.embeddings.create(model=MODEL, input=["one", "two"])
    assert [row.index for row in decoded.data] == [0, 1]
    # Typed as numbers whatever is asked for.
    coded = str(client.embeddings.create(model=MODEL, input="one", encoding_format="base64").data[0].embedding)
    numbers = struct.unpack(f"<{len(decoded.data[0].embedding)}f", base64.b64decode(coded))
    assert list(numbers) == pytest.approx(decoded.data[0].embedding, abs=1e-6)


def test_models_are_listed_once_for_the_fleet_and_say_that_they_are_emulated(client: openai.OpenAI) -> None:
    assert [(model.id, model.owned_by) for model in client.models.list()] == [(MODEL, "infermesh-emulator")]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_an_unknown_model_is_not_found_and_the_answer_names_those_that_are(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=MODEL) as caught:
        client.chat.completions.create(model="nope", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert caught.value.type == "not_found_error"


def test_what_the_runtime_refuses_comes_through_as_its_own_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="too large"):
        client.completions.create(model=MODEL, prompt="x", max_tokens=10_000_000)
    # The client's own fault: the nodes stay in choice.
    assert client.completions.create(model=MODEL, prompt="x", max_tokens=1).choices[0].text


def test_a_body_that_makes_no_sense_is_refused_by_the_router_itself(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="x", max_tokens="many")  # type: ignore[call-overload]
    assert caught.value.code == "invalid_body"
    assert caught.value.param == "max_tokens"


def test_a_wrong_priority_or_deadline_is_named(client: openai.OpenAI) -> None:
    for header, value in (("x-infermesh-priority", "urgent"), ("x-infermesh-deadline-ms", "-5")):
        with pytest.raises(openai.BadRequestError, match=header) as caught:
            client.completions.create(model=MODEL, prompt="x", max_tokens=1, extra_headers={header: value})
        assert caught.value.param == header


def test_a_stream_that_is_left_early_is_aborted_in_the_engine_at_once(client: openai.OpenAI, fleet: Fleet) -> None:
    """The loser of a race has 50 ms, and a client that goes away is no harder. The best of a few on a busy machine."""
    assert min(_leave_early(client, fleet) for _ in range(3)) < 0.05


def _leave_early(client: openai.OpenAI, fleet: Fleet) -> float:
    """Seconds from leaving to the abort in the engine."""
    aborted = sum(daemon.engine()["aborted_total"] for daemon in fleet.gpus)
    with client.completions.create(model=MODEL, prompt="left", max_tokens=2_000, stream=True) as stream:
        next(iter(stream))
        assert _running(fleet) == 1
        left_at = time.time()
    wait_until("nothing is generated for a client that left", lambda: _running(fleet) == 0, 5)
    engines = [daemon.engine() for daemon in fleet.gpus]
    assert sum(engine["aborted_total"] for engine in engines) == aborted + 1
    return float(max(engine["last_abort_unix_s"] for engine in engines)) - left_at
