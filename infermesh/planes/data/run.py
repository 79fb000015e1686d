"""One request's run: attempts at targets, a hedge when the first is slow, and the relay of the winner's answer.

The decisions are `core.routing.race`'s; this drives them. Everything that happens to an attempt arrives as a plain
call from the reactor or from the timers, so a run needs a task only where something must be waited for: opening a
connection. That is handed to the asker's task. A hedge is that task opening a second connection while the
first attempt is still awaited; a win during that time cancels the opening. Hence no nursery, and nothing that could
outlive the request.

A first byte settles the race: of a stream, the first byte of its body, since runtimes send the head of a stream
before its first token. Until then nothing has been said to the client, and any attempt may be thrown away.

Duties of the host: `start` once; `on_run_end` is the one end of each run, when nothing of it is left: every attempt
was given back, closed, or cancelled down to its runtime. `cancel` ends it when the client is gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol, assert_never

import trio

from infermesh.core.model.names import NodeId
from infermesh.core.model.outcome import Verdict
from infermesh.core.routing.effects import Cancel, Dispatch, Effect, Settle
from infermesh.core.routing.race import Race
from infermesh.net.asker import Asker
from infermesh.net.connection import ConnectionLost
from infermesh.net.pool import ConnectFailed
from infermesh.net.timers import Entry, Timers
from infermesh.planes.data.record import AttemptRecord
from infermesh.planes.data.sender import HTTP1_OUT, RequestSender
from infermesh.planes.data.upstream import Upstream, UpstreamSource
from infermesh.planes.data.writer import AnswerWriter
from wire.http1 import ResponseHead

# A stream of a node that is held for dead has so long to show a byte: tokens come tens of times in it.
_DOUBT_S: Final = 1.0
_REQUEST_TIMED_OUT: Final = 408


class Destination(Protocol):
    """Where one attempt may go. The host of the run made it and knows what is behind."""

    @property
    def node(self) -> NodeId: ...
    @property
    def pool(self) -> UpstreamSource: ...


class RunHost(Protocol):
    """What a run asks of the plane it runs in: budgets, bytes, and to be told."""

    timers: Timers

    def send(self, run: Run, attempt: Attempt, up: Upstream) -> None:
        """Begin the attempt's exchange: its request out, `attempt` the sink of what comes back."""

    def response_lines(self, run: Run, attempt: Attempt, head: ResponseHead) -> list[bytes]:
        """Field lines that the answer gets on its way."""

    def may_hedge(self, run: Run) -> bool: ...
    def may_retry(self, run: Run) -> bool: ...
    def on_dispatch(self, run: Run, attempt: Attempt) -> None: ...
    def on_first_byte(self, run: Run, attempt: Attempt, head: ResponseHead) -> None: ...
    def on_attempt_end(self, run: Run, attempt: Attempt) -> None:
        """Called exactly once for each dispatched attempt, with its verdict set."""

    def on_stale(self, run: Run, attempt: Attempt) -> None: ...
    def on_run_end(self, run: Run) -> None:
        """With a `winner` whose answer went out, whole or broken off; or without one, and nothing went out."""


class RunLimits(Protocol):
    """Seconds; the `[upstream]` section of the config."""

    @property
    def head_timeout_s(self) -> float: ...
    @property
    def stall_timeout_s(self) -> float: ...


class Attempt:
    """One attempt at one destination: the sink of its upstream exchange."""

    __slots__ = (
        "destination",
        "detail",
        "dispatched_at",
        "first_byte_at",
        "head",
        "hedge",
        "lease",
        "number",
        "opening",
        "record",
        "run",
        "stale_retried",
        "status",
        "up",
        "verdict",
    )

    def __init__(self, run: Run, number: int, destination: Destination, *, hedge: bool) -> None:
        self.run = run
        self.number = number
        self.destination = destination
        self.hedge = hedge
        self.lease: object = None  # The host's, and so is `record`.
        self.record: AttemptRecord | None = None
        self.opening: trio.CancelScope | None = None  # While the asker's task connects for it.
        self.up: Upstream | None = None
        self.head: ResponseHead | None = None
        self.status = 0  # Its answer's, in HTTP's terms; 0: no answer yet.
        self.dispatched_at = 0.0
        self.first_byte_at = 0.0
        self.verdict: Verdict | None = None
        self.detail = ""
        self.stale_retried = False

    def drop(self) -> None:
        """Close whatever it has, at once and without a word from it."""
        if self.up is not None:
            self.up.detach()
        elif self.opening is not None:
            self.opening.cancel()

    def on_interim(self, up: Upstream, head: ResponseHead) -> None:
        self.run.on_interim(head)

    def on_head(self, up: Upstream, head: ResponseHead) -> None:
        self.head = head
        self.run.on_head(self, up, head)

    def on_first_bytes(self, up: Upstream) -> None:
        assert self.head is not None
        self.run.on_first_byte(self, up, self.head)

    def on_body(self, up: Upstream, payload: bytes) -> None:
        self.run.writer.payload(self.run, up, payload)

    def on_doubt(self, up: Upstream, why: str) -> None:
        self.run.on_doubt(self, up, why)

    def on_end(self, up: Upstream) -> None:
        try:
            self.run.on_end(self)
        except Exception:
            self._give_up()
            raise

    def on_failed(self, up: Upstream, error: ConnectionLost) -> None:
        try:
            self.run.on_failed(self, up, error)
        except Exception:
            self._give_up()
            raise

    def _give_up(self) -> None:
        """A defect where the connection has let go of us already: the client's side takes everything along."""
        self.run.asker.lose("a defect on this node, see connection_crashed in its log")


class Run:
    __slots__ = (
        "_host",
        "_limits",
        "_pending",
        "_progress_mark",
        "_request_mark",
        "_sender",
        "_stall_reason",
        "asker",
        "attempts",
        "cancelled",
        "client_deadline",
        "context",
        "deadline",
        "done",
        "ended",
        "failure",
        "first_byte_by",
        "race",
        "rechunk",
        "settled",
        "timed_out",
        "timer",
        "winner",
        "writer",
    )

    def __init__(
        self,
        host: RunHost,
        asker: Asker,
        destinations: Sequence[Destination],
        *,
        writer: AnswerWriter,
        hedge_after_s: float,
        first_byte_by: float,
        limits: RunLimits,
        context: object,
        sender: RequestSender = HTTP1_OUT,
        client_deadline: float = math.inf,
    ) -> None:
        """`first_byte_by`: monotonic seconds; the client's deadline, if that is nearer than the head timeout."""
        self._host = host
        self._limits = limits
        self.writer = writer
        self._sender = sender
        self.asker = asker
        self.context = context  # The host's: what it needs to know of this request.
        self.race: Race[Destination] = Race(destinations, hedge_after_s)
        self.first_byte_by = first_byte_by
        self.client_deadline = client_deadline
        self.attempts: list[Attempt] = []
        self.settled = False
        self.winner: Attempt | None = None
        self.done = False  # The winner's answer is whole, or broke off.
        self.ended = False
        self.cancelled = False
        self.timed_out = False  # `first_byte_by` came first.
        self.failure = ""  # Why no answer could be had, or why it broke off.
        self.deadline = math.inf
        self.timer: Entry | None = None
        self._pending: tuple[int, Destination, bool] | None = None
        self.rechunk = False  # The writer's: the body's payload is framed anew.
        self._progress_mark = -1
        self._request_mark = 0
        self._stall_reason = ""  # Why no progress is expected; empty: nothing but time speaks against it.

    def start(self) -> None:
        """Make the first attempt. May end the run before it returns."""
        self._obey(self.race.start(self._host.timers.now()), hedge=False)
        self._proceed()

    def cancel(self, why: str = "the client is gone") -> None:
        """End everything here and now, without a word to the asker."""
        if not self.ended:
            self.cancelled = True
            self._cancel_all(why)
            self._end()

    # --- opening an attempt ---

    def _proceed(self) -> None:
        """Do what is due: begin the pending attempt, now if a connection idles, else in the asker's task."""
        if self._pending is None:
            if self.done or (self.settled and self.winner is None):
                self._end()
            return
        number, destination, hedge = self._pending
        attempt = self._live_attempt(number)
        if attempt is None:
            attempt = self._begin(Attempt(self, number, destination, hedge=hedge))
            up = destination.pool.take_idle()
            if up is not None:
                self._pending = None
                self._send(attempt, up)
                return
        self.asker.hand_over(self._open_pending)

    def _begin(self, attempt: Attempt) -> Attempt:
        self.attempts.append(attempt)
        attempt.dispatched_at = self._host.timers.now()
        self._host.on_dispatch(self, attempt)
        self._arm()
        return attempt

    async def _open_pending(self) -> None:
        """In the asker's task: connect for the pending attempt, which may be gone by now."""
        pending, self._pending = self._pending, None
        attempt = self._live_attempt(pending[0]) if pending is not None else None
        if attempt is None or self.ended:
            return
        self._arm()  # A hedge that came due while this one waited for the task.
        pool = attempt.destination.pool
        up: Upstream | None = None
        try:
            with trio.CancelScope() as attempt.opening:
                up = await pool.acquire(self.first_byte_by, fresh=attempt.stale_retried)
        except ConnectFailed as error:
            now = self._host.timers.now()
            if now < self.first_byte_by or self._begin_time_anew(now):
                self._fail(attempt, Verdict.CONNECT_FAILED, str(error))
            elif attempt.verdict is None:
                self.on_deadline(now)  # A client in a hurry: nothing is held against the target.
            return
        finally:
            attempt.opening = None
        if up is not None and attempt.verdict is None:
            self._send(attempt, up)
        elif up is not None:
            up.release()  # Another attempt won, or time was up; whatever ended this one has said so.

    def _send(self, attempt: Attempt, up: Upstream) -> None:
        attempt.up = up
        self._host.send(self, attempt, up)

    # --- what happens to attempts: plain calls from the reactor ---

    def on_interim(self, head: ResponseHead) -> None:
        if head.status != 100 and not self.settled:
            self.writer.interim(self.asker, head)

    def on_head(self, attempt: Attempt, up: Upstream, head: ResponseHead) -> None:
        status = attempt.status = self.writer.status_of(up, head)
        if status in self._sender.retryable and self._may_try_again(attempt):
            up.detach()
            verdict = Verdict.CLIENT_ERROR if status == 429 else Verdict.SERVER_ERROR
            self._fail(attempt, verdict, f"status {status}")
        elif head.framing != 0 and head.status == 200 and not up.has_body_bytes and self._sender.complete:
            # (Who has not said all may be waiting for this very head.)
            up.hold()
        else:
            self.on_first_byte(attempt, up, head)

    def on_first_byte(self, attempt: Attempt, up: Upstream, head: ResponseHead) -> None:
        now = self._host.timers.now()
        attempt.first_byte_at = now
        effects = self.race.on_head(attempt.number, now)
        if not effects:
            up.detach()  # It lost, and its bytes were under way already.
            return
        self._obey(effects, hedge=False)
        self._sender.answered()
        self._host.on_first_byte(self, attempt, head)
        lines = self._host.response_lines(self, attempt, head)
        self._host.timers.arm(self, now + self._limits.stall_timeout_s)
        self.writer.begin(self, up, head, lines)

    def on_end(self, attempt: Attempt) -> None:
        up, head = attempt.up, attempt.head
        assert up is not None
        assert head is not None
        self.writer.end(self, up)
        status = attempt.status = self.writer.status_of(up, head)
        verdict = Verdict.OK if status < 400 else Verdict.CLIENT_ERROR if status < 500 else Verdict.SERVER_ERROR
        self._end_attempt(attempt, verdict, "" if status < 400 else f"status {status}")
        self.done = True
        self._end()

    def on_failed(self, attempt: Attempt, up: Upstream, error: ConnectionLost) -> None:
        """The attempt's connection broke. What that means depends on what the client has seen."""
        if attempt is self.winner:
            self._break_off(attempt, up, str(error))
            return
        stale = up.reused and up.tally.bytes_in == 0 and not attempt.stale_retried
        if stale and self._sender.repeatable and self._pending is None:
            # A kept connection that the peer closed while our request was under way says nothing about the
            # peer: once more, on a new one.
            attempt.stale_retried = True
            attempt.up = None
            self._host.on_stale(self, attempt)
            self._pending = (attempt.number, attempt.destination, attempt.hedge)
            self._proceed()
            return
        self._fail(attempt, Verdict.BROKEN, str(error))

    def on_doubt(self, attempt: Attempt, up: Upstream, why: str) -> None:
        """The attempt's node is held for dead, and hung or cut off: its connection would tell much later, or never.

        Who has seen no byte tries another node at once. A stream that flows may know better than the news, and is
        given a moment to show it.
        """
        if attempt is not self.winner:
            up.detach()
            self._fail(attempt, Verdict.BROKEN, why)
        elif not self.done:
            self._progress_mark = self._progress_of(up)
            self._stall_reason = why
            self._host.timers.arm(self, self._host.timers.now() + _DOUBT_S)

    def on_request_whole(self) -> None:
        """Whoever asks has said all by now, and not at the start: from here on it is the answer that is waited for."""
        now = self._host.timers.now()
        if not self.settled:
            self.first_byte_by = min(self.client_deadline, now + self._limits.head_timeout_s)
            self._arm()
        elif self.winner is not None and self.winner.up is not None and not self._stall_reason:
            self._progress_mark = -1
            self._host.timers.arm(self, now + self._limits.stall_timeout_s)

    def on_deadline(self, now: float) -> None:
        if self.settled:
            self._watch_for_stall(now)
        elif now >= self.first_byte_by:
            if self._begin_time_anew(now):
                return
            self.timed_out = True
            self.race.forbid_retry()
            for number in self.race.live:
                self._time_out(self._live_attempt(number))
        elif self._pending is not None:
            # An attempt waits for the asker's task, which arms anew when it comes to it.
            self._host.timers.arm(self, self.first_byte_by)
        else:
            if not self._host.may_hedge(self):
                self.race.forbid_hedge()
            self._obey(self.race.on_wake(now), hedge=True)
            self._arm()
            self._proceed()

    # --- deciding ---

    def _obey(self, effects: Sequence[Effect[Destination]], *, hedge: bool) -> None:
        for effect in effects:
            match effect:
                case Dispatch(number, destination):
                    assert self._pending is None, "two attempts wait to be opened"
                    self._pending = (number, destination, hedge)
                case Cancel(number):
                    self._cancel(number, "another attempt answered first")
                case Settle(winner):
                    self.settled = True
                    self.winner = None if winner is None else self._live_attempt(winner)
                case _:
                    assert_never(effect)

    def _may_try_again(self, attempt: Attempt) -> bool:
        """Whether throwing this answer away leads anywhere: another copy runs, or another target is allowed."""
        if self.race.live != (attempt.number,):
            return True
        return self.race.may_launch and self._host.may_retry(self)

    def _fail(self, attempt: Attempt, verdict: Verdict, detail: str) -> None:
        if attempt.verdict is not None:
            return
        self.failure = f"{attempt.destination.node}: {detail}"
        self._end_attempt(attempt, verdict, detail)
        if self.race.live == (attempt.number,) and not self._host.may_retry(self):
            self.race.forbid_retry()
        self._obey(self.race.on_failed(attempt.number, self._host.timers.now()), hedge=False)
        self._arm()
        self._proceed()

    def _time_out(self, attempt: Attempt | None) -> None:
        if attempt is None:
            return
        attempt.drop()
        # A target is late only by its own measure: that a client was in a hurry says nothing about it.
        waited_s = self._host.timers.now() - attempt.dispatched_at
        late = self._sender.complete and waited_s >= self._limits.head_timeout_s
        self._fail(attempt, Verdict.TIMED_OUT if late else Verdict.CANCELLED, "no first byte in time")

    def _begin_time_anew(self, now: float) -> bool:
        """Whether an answer is not late yet, because its request still comes: then its time begins anew."""
        came = self._sender.bytes_in
        if self._sender.complete or came == self._request_mark or now >= self.client_deadline:
            return False
        self._request_mark = came
        self.first_byte_by = min(self.client_deadline, now + self._limits.head_timeout_s)
        self._arm()
        return True

    def _break_off(self, attempt: Attempt, up: Upstream, detail: str, verdict: Verdict = Verdict.BROKEN) -> None:
        """The winner died inside its answer: say so in the stream if that can be said, and never end it cleanly."""
        self.failure = f"{attempt.destination.node}: {detail}"
        assert attempt.head is not None
        self.writer.break_off(self, up, attempt.head)
        self._end_attempt(attempt, verdict, detail)
        self.done = True
        self._end()

    def _watch_for_stall(self, now: float) -> None:
        winner = self.winner
        if winner is None or winner.up is None or self.done:
            return
        up = winner.up
        limits, answer_due = self._limits, self._sender.complete
        progress = self._progress_of(up)
        if progress != self._progress_mark or up.paused:
            self._progress_mark = progress
            self._stall_reason = ""
            quiet_s = limits.stall_timeout_s
            if not answer_due:  # Who has not said all may be the one that is waited for.
                quiet_s = max(quiet_s, limits.head_timeout_s * self._sender.patience)
            self._host.timers.arm(self, now + quiet_s)
        elif answer_due or self._stall_reason:
            up.lose(self._stall_reason or f"no byte for {limits.stall_timeout_s} s (upstream.stall_timeout_s)")
        else:
            # Nothing that its node is to blame for, and it holds a slot.
            up.detach()
            self.timed_out = True
            winner.status = _REQUEST_TIMED_OUT
            detail = f"no word of either side for {limits.head_timeout_s} s (upstream.head_timeout_s)"
            self._break_off(winner, up, detail, Verdict.CANCELLED)

    def _progress_of(self, up: Upstream) -> int:
        return up.bytes_in + self._sender.bytes_in

    # --- ending attempts ---

    def _cancel(self, number: int, why: str) -> None:
        attempt = self._live_attempt(number)
        if attempt is None:  # Decided upon, and not begun.
            self._pending = None
            return
        attempt.drop()
        self._end_attempt(attempt, Verdict.CANCELLED, why)

    def _cancel_all(self, why: str) -> None:
        self._pending = None
        self.race.on_cancel(0.0)
        for attempt in self.attempts:
            if attempt.verdict is None:
                attempt.drop()
                self._end_attempt(attempt, Verdict.CANCELLED, why)

    def _end_attempt(self, attempt: Attempt, verdict: Verdict, detail: str) -> None:
        if attempt.verdict is None:
            attempt.verdict = verdict
            attempt.detail = detail
            if self._pending is not None and self._pending[0] == attempt.number:
                self._pending = None  # It waited to be opened once more.
            self._host.on_attempt_end(self, attempt)

    def _live_attempt(self, number: int) -> Attempt | None:
        for attempt in self.attempts:
            if attempt.number == number and attempt.verdict is None:
                return attempt
        return None

    # --- the end ---

    def _arm(self) -> None:
        if self.settled:
            return
        timers = self._host.timers
        due = min(self.race.wake_at, self.first_byte_by)
        if self.timer is None:
            # Its entry comes up no later than the answer's first deadline, so that one is an assignment.
            timers.arm(self, min(due, timers.now() + self._limits.stall_timeout_s))
            self.deadline = due
        else:
            timers.arm(self, due)

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self._host.timers.disarm(self)
        self._host.on_run_end(self)
        # Nothing refers to an ended run but its own attempts. Without this cycle it is freed here and now, and the
        # collector, whose pauses every stream would feel, has nothing to find.
        self.attempts.clear()
        self.winner = None
        self.context = None
