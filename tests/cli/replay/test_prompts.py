"""Prompts of the right length that share what the trace says they share, and requests that servers can read."""

from __future__ import annotations

import json

import h11
import pytest

from infermesh.cli.replay.plan import Arrival
from infermesh.cli.replay.prompts import BYTES_PER_TOKEN, PromptWriter, RequestWriter
from infermesh.emulator import count_tokens
from infermesh.sim.trace import MOONCAKE_BLOCK_TOKENS


def _arrival(number: int = 0, tokens: int = 1_000, blocks: tuple[int, ...] = (), output: int = 9) -> Arrival:
    return Arrival(number=number, at_s=0.0, prompt_tokens=tokens, output_tokens=output, block_ids=blocks)


def _shared_tokens(one: bytes, other: bytes) -> int:
    differing = (at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)
    return next(differing, min(len(one), len(other))) // BYTES_PER_TOKEN


@pytest.mark.parametrize("blocks", [(), (7, 8)])
def test_a_prompt_has_exactly_the_tokens_of_the_trace(blocks: tuple[int, ...]) -> None:
    prompt = PromptWriter().prompt(_arrival(tokens=1_000, blocks=blocks))
    assert len(prompt) == 1_000 * BYTES_PER_TOKEN
    assert count_tokens(prompt) == 1_000
    assert len(prompt.split()) == 1_000


def test_equal_leading_ids_are_a_shared_prefix_and_nothing_more() -> None:
    writer = PromptWriter()
    first = writer.prompt(_arrival(0, 1_500, (1, 2, 3)))
    second = writer.prompt(_arrival(1, 1_500, (1, 2, 4)))
    third = writer.prompt(_arrival(2, 1_500, (5, 2, 3)))
    # Two words may be equal by chance where the texts part.
    assert 0 <= _shared_tokens(first, second) - 2 * MOONCAKE_BLOCK_TOKENS <= 3
    assert _shared_tokens(first, third) <= 3


def test_prompts_without_ids_share_nothing_and_repeat_with_their_number() -> None:
    writer = PromptWriter()
    assert _shared_tokens(writer.prompt(_arrival(0)), writer.prompt(_arrival(1))) <= 3
    assert writer.prompt(_arrival(1)) == PromptWriter().prompt(_arrival(1))


def test_another_seed_is_another_text() -> None:
    one, other = PromptWriter(seed=1), PromptWriter(seed=2)
    assert _shared_tokens(one.prompt(_arrival(blocks=(1, 2))), other.prompt(_arrival(blocks=(1, 2)))) <= 3


def test_scale_shortens_prompts_and_what_they_share_alike() -> None:
    writer = PromptWriter(scale=0.25)
    first = writer.prompt(_arrival(0, 2_000, (1, 2, 3, 4)))
    second = writer.prompt(_arrival(1, 1_500, (1, 2, 9)))
    assert [len(first), len(second)] == [500 * BYTES_PER_TOKEN, 375 * BYTES_PER_TOKEN]
    assert 0 <= _shared_tokens(first, second) - 2 * MOONCAKE_BLOCK_TOKENS // 4 <= 3
    assert writer.tokens(_arrival(tokens=1)) == 1


def test_ids_that_are_fewer_than_the_length_says_are_filled_with_new_text() -> None:
    writer = PromptWriter()
    first, second = (writer.prompt(_arrival(number, 700, (1,))) for number in (0, 1))
    assert len(first) == 700 * BYTES_PER_TOKEN
    assert 0 <= _shared_tokens(first, second) - MOONCAKE_BLOCK_TOKENS <= 3


@pytest.mark.parametrize("chat", [False, True], ids=["completion", "chat"])
def test_a_request_is_whole_http_and_json(chat: bool) -> None:
    writer = RequestWriter(
        PromptWriter(),
        authority="host:80",
        base_path="/base/",
        model='a "model"',
        chat=chat,
        headers=[("x-infermesh-priority", "bulk")],
    )
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=65_536)
    server.receive_data(writer.message(_arrival(3, 600, (1, 2), output=33)))
    request, data, end = server.next_event(), server.next_event(), server.next_event()
    assert isinstance(request, h11.Request)
    assert isinstance(data, h11.Data)
    assert isinstance(end, h11.EndOfMessage)
    assert request.target == (b"/base/v1/chat/completions" if chat else b"/base/v1/completions")
    assert (b"x-infermesh-priority", b"bulk") in list(request.headers)
    body = json.loads(bytes(data.data))
    prompt = body["messages"][0]["content"] if chat else body["prompt"]
    assert prompt.encode() == writer.prompts.prompt(_arrival(3, 600, (1, 2)))
    assert (body["model"], body["max_tokens"], body["stream"]) == ('a "model"', 33, True)
