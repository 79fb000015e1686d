"""Drive a plan of arrivals against a server, open loop: each goes out at its moment, whatever became of the others.

Every time is counted from the moment a request was meant to go out, not from when it did: if this machine or the
server holds things up, the wait is in the figures. Duties of the caller: cancel the scope around `drive` to stop
early; what is under way then is settled as cancelled, and arrivals not yet due are no arrivals.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from infermesh.cli.replay.answer import Answer
from infermesh.cli.replay.client import ClientFailed, ReplayClient, TargetFailed
from infermesh.cli.replay.ledger import Ledger, Passage, Status
from infermesh.cli.replay.plan import Arrival
from infermesh.cli.replay.prompts import RequestWriter

# The first arrivals must not be late because the loop was still being set up.
_LEAD_S = 0.05


class ReplayDriver:
    """Sends arrivals and keeps the books. One `drive` at a time."""

    def __init__(self, client: ReplayClient, writer: RequestWriter, ledger: Ledger, *, timeout_s: float) -> None:
        self._client = client
        self._writer = writer
        self.ledger = ledger
        self._timeout_s = timeout_s
        self._start = 0.0
        self.due = 0  # Arrivals whose moment came.

    @property
    def now_s(self) -> float:
        """Seconds since the start of the replay."""
        return trio.current_time() - self._start

    async def drive(self, arrivals: Iterable[Arrival]) -> None:
        """Returns when every arrival has ended."""
        self._start = trio.current_time() + _LEAD_S
        async with trio.open_nursery() as nursery:
            for arrival in arrivals:
                await trio.sleep_until(self._start + arrival.at_s)
                self.due += 1
                passage = self.ledger.open(
                    number=arrival.number, at_s=arrival.at_s, prompt_tokens=self._writer.prompts.tokens(arrival)
                )
                nursery.start_soon(self._run, arrival, passage)

    async def _run(self, arrival: Arrival, passage: Passage) -> None:
        answer = Answer()
        status, cause, detail = Status.CANCELLED, "stopped", ""
        try:
            with trio.move_on_at(self._start + arrival.at_s + self._timeout_s) as scope:
                status, cause, detail = await self._send(arrival, passage, answer)
            if scope.cancelled_caught:
                status, cause = Status.FAILED, "timed out"
                detail = f"no end within {self._timeout_s:g} s"
        finally:
            self._note(passage, answer)
            ended_s = self.now_s
            if status is Status.COMPLETED:
                self.ledger.gaps_s.extend(answer.gaps_s)
                # It ended with its last bytes, not when this task had its turn again.
                ended_s = answer.last_byte_at - self._start
            self.ledger.settle(passage, status, at_s=ended_s, cause=cause, detail=detail)

    async def _send(self, arrival: Arrival, passage: Passage, answer: Answer) -> tuple[Status, str, str]:
        message = self._writer.message(arrival)
        passage.send_lag_s = max(0.0, self.now_s - arrival.at_s)
        try:
            stayed = await self._client.exchange(message, answer, cancel_after_tokens=arrival.cancel_after_tokens)
        except TargetFailed as failure:
            return Status.FAILED, failure.cause, str(failure)
        except ClientFailed as failure:
            return Status.CLIENT_ERROR, failure.cause, str(failure)
        if not stayed:
            return Status.CANCELLED, "planned", ""
        return judge(answer)

    def _note(self, passage: Passage, answer: Answer) -> None:
        if answer.first_token_at:
            self.ledger.first_token(passage, answer.first_token_at - self._start - passage.at_s)
            passage.flowing = True
        passage.tokens = answer.tokens
        if answer.tokens > 1:
            passage.mean_gap_s = (answer.last_token_at - answer.first_token_at) / (answer.tokens - 1)
        headers = answer.headers
        passage.node = headers.get(b"x-infermesh-node", b"").decode("latin-1")
        passage.request_id = headers.get(b"x-infermesh-request-id", b"").decode("latin-1")
        attempts = headers.get(b"x-infermesh-attempts", b"")
        passage.attempts = int(attempts) if attempts.isdigit() else 0
        retry_after = headers.get(b"retry-after", b"")
        passage.retry_after_s = float(retry_after) if retry_after.isdigit() else None


def judge(answer: Answer) -> tuple[Status, str, str]:
    """(status, cause, detail) of an answer that ended as its framing says."""
    status, detail = answer.status, answer.error_message
    if status in (429, 503):
        return Status.REJECTED, f"http {status}", detail
    if status >= 500 or status < 200:
        return Status.FAILED, f"http {status}", detail
    if status >= 300:
        return Status.CLIENT_ERROR, f"http {status}", detail
    if detail:
        return Status.FAILED, "error event", detail
    if not answer.done_mark:
        return Status.FAILED, "truncated", "the stream ended without its [DONE]"
    return Status.COMPLETED, "", ""
