"""The emulator against clients that others wrote: curl and the official `openai` package. Real time."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from functools import partial

import openai
import pytest
import trio
from openai.types.chat import ChatCompletionMessageParam

from infermesh.emulator import EmulatorConfig, EmulatorServer, answer_text
from infermesh.emulator.asks import chat_prompt

Start = Callable[[EmulatorConfig], Awaitable[EmulatorServer]]

pytestmark = pytest.mark.interop

CONFIG = EmulatorConfig(models=("tiny-model",), profile="tiny")
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi fox"}]
PROMPT = chat_prompt([("user", "hi fox")])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_streams_a_completion(start: Start) -> None:
    server = await start(CONFIG)
    body = json.dumps({"prompt": "hello", "max_tokens": 20, "stream": True})
    command = ["curl", "--no-buffer", "--silent", "--fail", f"{server.url}/v1/completions", "-d", body]
    run: subprocess.CompletedProcess[bytes] = await trio.run_process(command, capture_stdout=True)
    events = run.stdout.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    texts = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events[:-2]]
    assert "".join(texts) == answer_text(b"hello", 20)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_is_told_to_go_on_with_a_large_body(start: Start) -> None:
    server = await start(CONFIG)
    body = json.dumps({"prompt": "hello", "max_tokens": 1, "padding": "x" * 100_000}).encode()
    command = ["curl", "--silent", "--fail", "-H", "expect: 100-continue", "--data-binary", "@-"]
    run: subprocess.CompletedProcess[bytes] = await trio.run_process(
        [*command, f"{server.url}/v1/completions"], stdin=body, capture_stdout=True
    )
    assert json.loads(run.stdout)["choices"][0]["text"] == answer_text(b"hello", 1)


@pytest.mark.slow
async def test_the_openai_client_chats_streams_embeds_and_lists(start: Start) -> None:
    server = await start(CONFIG)
    await trio.to_thread.run_sync(partial(_use_openai, server.url))
    assert server.stats.completed == 4
    assert server.stats.aborted_total == 0


def _use_openai(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        assert [model.id for model in client.models.list()] == ["tiny-model"]
        chat = client.chat.completions.create(model="tiny-model", messages=MESSAGES, max_tokens=5)
        assert chat.choices[0].message.content == answer_text(PROMPT, 5)
        chunks = list(
            client.chat.completions.create(
                model="tiny-model",
                messages=MESSAGES,
                max_tokens=5,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == answer_text(PROMPT, 5)
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.completion_tokens == 5
        completion = client.completions.create(model="tiny-model", prompt="hello")
        assert completion.choices[0].text == answer_text(b"hello", 16)
        vector = client.embeddings.create(model="tiny-model", input="hello").data[0].embedding
        assert sum(value * value for value in vector) == pytest.approx(1.0, abs=1e-5)
        with pytest.raises(openai.NotFoundError, match="`nope` does not exist"):
            client.completions.create(model="nope", prompt="hello")
        with pytest.raises(openai.BadRequestError, match="too large"):
            client.completions.create(model="tiny-model", prompt="hello", max_tokens=10_000)


@pytest.mark.slow
async def test_an_openai_client_that_stops_reading_aborts_its_request(start: Start) -> None:
    server = await start(CONFIG)
    await trio.to_thread.run_sync(partial(_leave_early, server.url))
    with trio.fail_after(5):
        while server.stats.running:
            await trio.lowlevel.checkpoint()
    assert server.stats.aborted_total == 1


def _leave_early(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        stream = client.completions.create(model="tiny-model", prompt="hello", max_tokens=3_000, stream=True)
        next(stream)
        stream.close()
