"""One generating request, from its body to its last byte: checks, the engine, the answer, and faults between.

Runs in the connection's task. The answer itself is made in the engine's task (see answers); here the client is
watched, and the engine is told at once when it leaves.
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, assert_never

import msgspec
import trio
import xxhash

from infermesh.emulator.answers import Ending, StreamAnswer, UnaryAnswer
from infermesh.emulator.asks import Ask, AskError, AskKind, read_ask
from infermesh.emulator.client import Watch
from infermesh.emulator.driver import EngineDriver, Flight
from infermesh.emulator.faults import RequestFaults
from infermesh.emulator.prompts import answer_tag, answer_text, block_hashes, count_tokens
from infermesh.emulator.routes import Reply
from infermesh.emulator.shapes import StreamShape, embedding_body, unary_body

if TYPE_CHECKING:
    from infermesh.emulator.connection import Connection, RequestHead

_JSON = "application/json"
_GARBAGE = b"\x16\x03\x01\x02\x00 emulated garbage, no HTTP\r\n\x00\r\n"
_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_ID_PREFIX = {AskKind.COMPLETION: "cmpl", AskKind.CHAT: "chatcmpl", AskKind.EMBEDDING: "embd"}


class Job(msgspec.Struct, frozen=True):
    """A request that was read, checked and sized."""

    ask: Ask
    driver: EngineDriver
    response_id: str
    created: int
    prompt_tokens: int
    output_tokens: int
    finish_reason: str


class Generation:
    def __init__(self, connection: Connection, head: RequestHead, kind: AskKind) -> None:
        self._connection = connection
        self._server = connection.server
        self._client = connection.client
        self._head = head
        self._kind = kind
        self._faults: RequestFaults = self._server.draw_faults()

    async def run(self, body: bytes) -> bool:
        """Answer the request. False: the connection is over. Raises `AskError` before anything was sent."""
        faults = self._faults
        if faults.sinkhole:
            raise AskError(HTTPStatus.INTERNAL_SERVER_ERROR, "Emulated fault: sinkhole.", "InternalServerError")
        job = self._read(body)
        if self._server.config.api_delay_s and await self._wait(self._server.config.api_delay_s):
            return False
        if not job.driver.has_room():
            raise AskError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "The engine is currently busy and cannot accept new requests. Please try again later or on a "
                "different instance.",
                "Service Unavailable",
            )
        if faults.stuck:
            return await self._stay_stuck(job)
        if faults.garbage_head:
            self._client.send_now(_GARBAGE)
            await self._client.drain()
            return False
        return await (self._stream(job) if job.ask.stream else self._unary(job))

    def _read(self, body: bytes) -> Job:
        ask = read_ask(self._kind, body)
        server, config = self._server, self._server.config
        name = ask.model or config.models[0]
        driver = server.drivers.get(name)
        if driver is None:
            raise AskError(
                HTTPStatus.NOT_FOUND,
                f"The model `{name}` does not exist. Valid aliases: {', '.join(config.models)}.",
                "NotFoundError",
                "model",
            )
        ask = msgspec.structs.replace(ask, model=name)
        prompt_tokens = sum(count_tokens(prompt) for prompt in ask.prompts)
        output_tokens, finish_reason = ask.tokens_max, "length"
        context = server.context_tokens_max
        if ask.kind is AskKind.EMBEDDING or not output_tokens:
            output_tokens, finish_reason = self._default_length(ask)
            output_tokens = max(1, min(output_tokens, context - prompt_tokens))
        _check_length(prompt_tokens, output_tokens, context)
        given = self._head.headers.get("x-request-id", "")
        if not _PLAIN_ID.fullmatch(given):  # It goes into JSON as it is.
            given = f"{server.rng.getrandbits(64):016x}"
        return Job(
            ask,
            driver,
            f"{_ID_PREFIX[ask.kind]}-{given}",
            int(time.time()),
            prompt_tokens,
            output_tokens,
            finish_reason,
        )

    def _default_length(self, ask: Ask) -> tuple[int, str]:
        match ask.kind:
            case AskKind.COMPLETION:
                return self._server.config.completion_tokens_default, "length"
            case AskKind.CHAT:
                return self._server.config.chat_tokens_default, "stop"
            case AskKind.EMBEDDING:
                return 1, "stop"
            case _:
                assert_never(ask.kind)

    async def _wait(self, seconds: float) -> bool:
        """Let time pass. True: the client left meanwhile."""
        watch = await self._client.watch(_never, trio.current_time() + seconds)
        return watch is Watch.LEFT

    async def _stay_stuck(self, job: Job) -> bool:
        job.driver.hold()
        try:
            await self._client.watch(_never, trio.current_time() + self._server.config.request_timeout_s)
        finally:
            job.driver.let_go(self._flight(job, UnaryAnswer(self._client)))
        return False

    async def _unary(self, job: Job) -> bool:
        answer = UnaryAnswer(self._client)
        if not await self._fly(job, self._flight(job, answer), answer):
            return False
        faults = self._faults
        if faults.answer_delay_s and await self._wait(faults.answer_delay_s):
            return False
        body = self._unary_body(job)
        extra = _orca(self._head.headers.get("endpoint-load-metrics-format", ""), job.driver)
        if not (faults.head_split_s or faults.content_length_delta):
            await self._connection.send_reply(self._head, Reply(body, _JSON), extra=extra)
            return True
        return await self._broken_unary(body, extra)

    async def _broken_unary(self, body: bytes, extra: tuple[tuple[str, str], ...]) -> bool:
        self._connection.count(self._head, HTTPStatus.OK)
        delta = self._faults.content_length_delta
        stated = max(0, len(body) + delta)
        if await self._send_head(
            self._connection.head_bytes(HTTPStatus.OK, _JSON, stated, extra=extra, close=bool(delta))
        ):
            return False
        if not delta:
            self._client.send_now(self._connection.whole_body(body))
            await self._client.drain()
            return True
        self._client.send_now(body)  # Past h11, which would refuse to break the length it stated.
        await self._client.drain()
        if delta < 0:
            # The surplus is there for whoever reads on; closing at once would hide it.
            await self._wait(self._server.config.keep_alive_s)
        return False

    def _unary_body(self, job: Job) -> bytes:
        seed = self._server.config.seed
        if job.ask.kind is AskKind.EMBEDDING:
            return embedding_body(job.ask, job.response_id, job.created, job.prompt_tokens, seed)
        return unary_body(
            job.ask,
            job.response_id,
            job.created,
            text=answer_text(job.ask.prompts[0], job.output_tokens, seed),
            finish_reason=job.finish_reason,
            usage=(job.prompt_tokens, job.output_tokens),
        )

    async def _stream(self, job: Job) -> bool:
        self._connection.count(self._head, HTTPStatus.OK)
        faults, config = self._faults, self._server.config
        framed = self._head.version == b"1.1"
        head = self._connection.head_bytes(HTTPStatus.OK, "text/event-stream; charset=utf-8", None)
        delayed = bool(faults.answer_delay_s or faults.head_split_s)
        late_head = config.head_with_first_token and not delayed
        answer = StreamAnswer(
            self._client,
            StreamShape(job.ask, job.response_id, job.created, framed=framed),
            faults,
            lead=head if late_head else b"",
            tag=answer_tag(job.ask.prompts[0], config.seed),
            finish_reason=job.finish_reason,
            usage=(job.prompt_tokens, job.output_tokens),
            end_of_message=self._connection.end_of_message,
        )
        flight = self._flight(job, answer)
        flight.wants_tokens = True
        if delayed:
            answer.hold()
        elif not late_head:
            self._client.send_now(head)
        if not await self._fly(job, flight, answer, head if delayed else b""):
            return False
        match answer.ending:
            case Ending.WHOLE:
                await self._client.drain()
                return True
            case Ending.RESET:
                self._client.reset()
            case Ending.TRUNCATED:
                await self._client.drain()
            case Ending.CRASH:
                self._server.crash()
            case _:
                assert_never(answer.ending)
        return False

    def _flight(self, job: Job, answer: UnaryAnswer | StreamAnswer) -> Flight:
        return Flight(
            job.response_id,
            prompt_tokens=job.prompt_tokens,
            output_tokens=job.output_tokens,
            finish_reason=job.finish_reason,
            answer=answer,
        )

    async def _fly(self, job: Job, flight: Flight, answer: UnaryAnswer | StreamAnswer, held_head: bytes = b"") -> bool:
        """Submit, and watch the client until the answer is made. False: the client left, and the engine knows.

        `held_head` is a stream's head that a fault delays.
        """
        job.driver.submit(flight, self._blocks(job))
        try:
            if held_head and isinstance(answer, StreamAnswer):
                if await self._wait(self._faults.answer_delay_s) or await self._send_head(held_head):
                    return False
                answer.release()
            deadline = trio.current_time() + self._server.config.request_timeout_s
            return await self._client.watch(lambda: answer.done, deadline) is Watch.DONE
        finally:
            job.driver.abort(flight)  # Does nothing once it has finished.

    async def _send_head(self, head: bytes) -> bool:
        """Send a head, in two halves with a pause if a fault says so. True: the client left meanwhile."""
        if self._faults.head_split_s:
            half = len(head) // 2
            self._client.send_now(head[:half])
            if await self._wait(self._faults.head_split_s):
                return True
            head = head[half:]
        self._client.send_now(head)
        return self._client.left

    def _blocks(self, job: Job) -> tuple[int, ...]:
        if job.ask.kind is AskKind.EMBEDDING:
            return ()  # Pooling needs every hidden state: vLLM does not take those from its prefix cache.
        seed = self._server.config.seed
        if job.ask.cache_salt:
            seed = xxhash.xxh3_64_intdigest(job.ask.cache_salt.encode(), seed)
        return block_hashes(job.ask.prompts[0], job.driver.engine.profile.block_tokens, seed)


def _check_length(prompt_tokens: int, output_tokens: int, context: int) -> None:
    if prompt_tokens >= context:
        raise AskError(
            HTTPStatus.BAD_REQUEST,
            f"This model's maximum context length is {context} tokens. However, your prompt contains "
            f"{prompt_tokens} input tokens. Please reduce the length of the input prompt. "
            f"(parameter=input_tokens, value={prompt_tokens})",
            param="input_tokens",
        )
    if prompt_tokens + output_tokens > context:
        raise AskError(
            HTTPStatus.BAD_REQUEST,
            f"'max_tokens' or 'max_completion_tokens' is too large: {output_tokens}. This model's maximum "
            f"context length is {context} tokens and your request has {prompt_tokens} input tokens "
            f"({output_tokens} > {context} - {prompt_tokens}). (parameter=max_tokens, value={output_tokens})",
            param="max_tokens",
        )


def _orca(wanted: str, driver: EngineDriver) -> tuple[tuple[str, str], ...]:
    """The load report that vLLM puts on unary answers for whoever asks for it (ORCA)."""
    waiting, usage = float(driver.waiting), driver.engine.kv_usage
    match wanted.upper():
        case "JSON":
            named = f'"num_requests_waiting": {waiting}, "kv_cache_usage_perc": {usage}'
            return (("endpoint-load-metrics", f'JSON {{"named_metrics": {{{named}}}}}'),)
        case "TEXT":
            named = f"named_metrics.num_requests_waiting={waiting}, named_metrics.kv_cache_usage_perc={usage}"
            return (("endpoint-load-metrics", f"TEXT {named}"),)
        case _:
            return ()


def _never() -> bool:
    return False
