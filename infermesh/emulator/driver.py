"""Run one engine on trio's clock and hand its tokens out.

One task per engine steps it, sleeps until the step's end, and calls each answer's `on_token` or `on_finished`
from there, without a task switch per token: an answer must do no more than a non-blocking send. The engine knows
numbers; a `Flight` is what this side knows of a request in it.

A step that the machine ends late does not delay those after it: the next begins when this one should have
ended, but never before the last submission and never so early that it would be over already.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

import msgspec
import trio

from infermesh.core.model.engine import Engine, StepResult
from infermesh.core.model.profiles import EngineProfile
from infermesh.emulator.faults import Faults
from infermesh.emulator.metrics import EngineMetrics

_ABORTS_KEPT = 256
_FROZEN_POLL_S = 0.02  # `frozen` is a plain switch that tests flip; nobody announces it.


class Answer(Protocol):
    """Where the tokens of one request go. Called from the engine's task: must neither wait nor raise."""

    def on_token(self, index: int) -> None:
        """One more token, not the last. Only for flights that want tokens."""

    def on_finished(self) -> None:
        """The last token."""


class Flight:
    """One request between its submission and its end."""

    __slots__ = (
        "admitted_at",
        "answer",
        "arrived_at",
        "finish_reason",
        "first_at",
        "number",
        "output_tokens",
        "preemptions",
        "prompt_tokens",
        "response_id",
        "tokens",
        "wants_tokens",
    )

    def __init__(
        self, response_id: str, *, prompt_tokens: int, output_tokens: int, finish_reason: str, answer: Answer
    ) -> None:
        self.response_id = response_id
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.finish_reason = finish_reason
        self.answer = answer
        self.wants_tokens = False
        self.tokens = 0  # Handed out; counted for flights that want tokens.
        self.preemptions = 0
        self.number = -1
        self.arrived_at = 0.0
        self.admitted_at = 0.0
        self.first_at = 0.0


class Abort(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose client left before its end, at the moment when the engine was told."""

    unix_s: float
    request_id: str
    tokens: int
    stuck: bool  # It never reached the engine: the `stuck` fault held it.


class EngineDriver:
    def __init__(
        self, model: str, profile: EngineProfile, faults: Faults, metrics: EngineMetrics, *, in_flight_max: int
    ) -> None:
        self.model = model
        self.engine = Engine(profile)
        self.metrics = metrics
        self.stuck = 0
        self.aborts: deque[Abort] = deque(maxlen=_ABORTS_KEPT)
        self._faults = faults
        self._in_flight_max = in_flight_max
        self._flights: dict[int, Flight] = {}
        self._next_number = 0
        self._last_submit_at = 0.0
        self._work = trio.Event()

    @property
    def in_flight(self) -> int:
        return len(self._flights) + self.stuck

    @property
    def waiting(self) -> int:
        return self.engine.queue_len + self.stuck

    def has_room(self) -> bool:
        if self.in_flight < self._in_flight_max:
            return True
        self.metrics.refused += 1
        return False

    def submit(self, flight: Flight, blocks: Iterable[int]) -> None:
        """Enter a request that fits (`engine.fits`) and for which there is room (`has_room`)."""
        flight.number = self._next_number
        self._next_number += 1
        flight.arrived_at = self._last_submit_at = trio.current_time()
        self._flights[flight.number] = flight
        self.engine.submit(
            flight.number,
            prompt_tokens=flight.prompt_tokens,
            output_tokens=flight.output_tokens,
            blocks=tuple(blocks),
        )
        self._work.set()

    def abort(self, flight: Flight) -> bool:
        """The client left. False when the answer had come to its end before."""
        if self._flights.pop(flight.number, None) is None:
            return False
        self.engine.abort(flight.number)
        self._note_abort(flight, stuck=False)
        return True

    def hold(self) -> None:
        """The `stuck` fault: a request waits here for ever."""
        self.stuck += 1

    def let_go(self, flight: Flight) -> None:
        self.stuck -= 1
        self._note_abort(flight, stuck=True)

    async def run(self) -> None:
        """Step the engine for ever."""
        engine = self.engine
        previous_end = 0.0
        while True:
            while engine.idle:
                # More than once where a request came and was aborted before this task ran.
                self._work = trio.Event()
                await self._work.wait()
                previous_end = trio.current_time()
            result = engine.step()
            assert result.sequences > 0
            duration_s = result.duration_ms / 1_000.0 * self._faults.slow_factor
            begun = max(previous_end, self._last_submit_at, trio.current_time() - duration_s)
            self._note_begin(result, begun)
            await trio.sleep_until(begun + duration_s)
            while self._faults.frozen:
                await trio.sleep(_FROZEN_POLL_S)
                begun = trio.current_time() - duration_s
            previous_end = begun + duration_s
            self._end_step(result, duration_s)

    def _note_begin(self, result: StepResult, begun: float) -> None:
        for number in result.admitted:
            flight = self._flights.get(number)
            if flight is not None:
                flight.admitted_at = begun
                self.metrics.queue.observe(begun - flight.arrived_at)
        for number in result.preempted:
            flight = self._flights.get(number)
            if flight is not None:
                flight.preemptions += 1

    def _end_step(self, result: StepResult, duration_s: float) -> None:
        generating = list(self.engine.generating())
        self.engine.settle()
        now = trio.current_time()
        metrics, flights = self.metrics, self._flights
        metrics.step_tokens.observe(result.prefill_tokens + len(generating) - len(result.first))
        if len(generating) > len(result.first):
            metrics.between_tokens.observe(duration_s, len(generating) - len(result.first))
        for number in result.first:
            flight = flights.get(number)
            if flight is not None:
                flight.first_at = now
                metrics.first_token.observe(now - flight.arrived_at)
        for number in result.finished:
            flight = flights.pop(number, None)
            if flight is not None:
                self._note_finish(flight, now)
                flight.answer.on_finished()
        for number in generating:
            flight = flights.get(number)
            if flight is not None and flight.wants_tokens:
                index = flight.tokens
                flight.tokens = index + 1
                flight.answer.on_token(index)

    def _note_finish(self, flight: Flight, now: float) -> None:
        metrics = self.metrics
        metrics.finished[flight.finish_reason] += 1
        metrics.prompt_tokens.observe(flight.prompt_tokens)
        metrics.generation_tokens.observe(flight.output_tokens)
        metrics.tokens_max.observe(flight.output_tokens)
        metrics.preemptions.observe(flight.preemptions)
        metrics.end_to_end.observe(now - flight.arrived_at)
        metrics.inference.observe(now - flight.admitted_at)
        metrics.prefill.observe(flight.first_at - flight.admitted_at)
        metrics.decode.observe(now - flight.first_at)
        if flight.output_tokens > 1:
            metrics.per_token.observe((now - flight.first_at) / (flight.output_tokens - 1))

    def _note_abort(self, flight: Flight, *, stuck: bool) -> None:
        self.metrics.finished["abort"] += 1
        self.aborts.append(Abort(unix_s=time.time(), request_id=flight.response_id, tokens=flight.tokens, stuck=stuck))
