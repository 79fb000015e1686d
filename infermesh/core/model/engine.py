"""One inference engine with continuous batching, as a cost model: what runs in each step, how long it takes.

Pure and without a clock; the emulator waits out its steps in real time, the simulator on its heap. The
caller's duties, in order:

1. `submit` and `abort` at any time;
2. `step()` begins a step and says how long it takes and what comes at its end;
3. after that time, `settle()` ends it (the next `step()` does so too): finished and aborted requests leave.

The schedule is vLLM's: each decoding sequence takes one token of the step's budget; the rest goes first come,
first served to prefills, in chunks, so that prefill slows the decodes beside it; the first token comes with
the step that completes the prefill. A waiting request is admitted while a slot, budget and KV for its whole
prompt are there. When a decoder finds no block, the newest sequence is preempted and later recomputed. Prompt
blocks with known hashes are shared and stay known after release, until evicted. Output blocks are never
shared: a later prompt that repeats an answer pays for it. Block hashes are chained: equal means same prefix.

A pure decode step costs time only for sequences that finish or need a block, not for all that run: finish
steps and block boundaries are known in advance and kept in calendars. A run of equal steps can be taken at
once with `ahead` and `skip`.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from infermesh.core.model.blocks import BlockCache
from infermesh.core.model.profiles import PROFILES, EngineProfile

__all__ = ["PROFILES", "Engine", "EngineCounters", "EngineProfile", "StepResult"]


class StepResult(msgspec.Struct, frozen=True):
    """One step: its length, and what is there at its end. Ids are the caller's, in admission order."""

    duration_ms: float  # 0.0: nothing to do, no step begun.
    sequences: int  # Sequences in the batch.
    prefill_tokens: int
    admitted: tuple[int, ...]  # Left the queue for the first time, at the beginning.
    first: tuple[int, ...]  # The first output token comes at the end.
    finished: tuple[int, ...]  # The last output token comes at the end.
    preempted: tuple[int, ...]  # Sent back to the head of the queue at the beginning.


class EngineCounters:
    """Totals since the engine began, counted when vLLM counts them."""

    __slots__ = (
        "aborted",
        "finished",
        "generation_tokens",
        "preemptions",
        "prefix_hit_tokens",
        "prefix_query_tokens",
        "prompt_tokens",
        "steps",
        "submitted",
    )

    def __init__(self) -> None:
        self.submitted = 0
        self.finished = 0
        self.aborted = 0
        self.steps = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = 0
        self.preemptions = 0


class _Phase(enum.Enum):
    WAITING = enum.auto()
    PREFILL = enum.auto()
    DECODE = enum.auto()
    GONE = enum.auto()


class _Sequence:
    __slots__ = (
        "aborting",
        "admitted",
        "blocked_version",
        "blocks",
        "cached_tokens",
        "finish_step",
        "generated",
        "grow_phase",
        "held",
        "output_tokens",
        "phase",
        "prefill_left",
        "private",
        "prompt_tokens",
        "published",
        "request_id",
    )

    def __init__(self, request_id: int, prompt_tokens: int, output_tokens: int, blocks: tuple[int, ...]) -> None:
        self.request_id = request_id
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.blocks = blocks
        self.phase = _Phase.WAITING
        self.aborting = False
        self.admitted = False  # At least once.
        self.cached_tokens = 0  # Prompt tokens found in the cache at the last admission.
        self.generated = 0  # Up to the last preemption; the calendar knows the rest.
        self.prefill_left = 0
        self.published = 0  # Leading prompt blocks already shared or found shared.
        self.held: list[int] = []
        self.private = 0
        self.finish_step = 0
        self.grow_phase = 0
        self.blocked_version = -1  # Version of the cache at which admission last failed.


class Engine:
    def __init__(self, profile: EngineProfile) -> None:
        self.profile = profile
        self.counters = EngineCounters()
        self.cache = BlockCache(profile.kv_blocks)
        self._requests: dict[int, _Sequence] = {}
        self._waiting: deque[_Sequence] = deque()
        self._waiting_len = 0  # Without the aborted ones still in the deque.
        self._running: dict[int, _Sequence] = {}  # Oldest admission first.
        self._prefilling: dict[int, _Sequence] = {}
        self._decoding: dict[int, _Sequence] = {}
        self._growing: list[dict[int, _Sequence]] = [{} for _ in range(profile.block_tokens)]
        self._calendar: dict[int, dict[int, _Sequence]] = {}  # Step of the last token -> whose.
        self._finishing: list[_Sequence] = []
        self._aborting: list[_Sequence] = []
        self._step = 0
        self._in_step = False
        self._steady = False  # The step under way only decodes, and nothing happened since it began.

    @property
    def queue_len(self) -> int:
        return self._waiting_len

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def kv_usage(self) -> float:
        """Share of the blocks held by running sequences, 0..1. Idle prefixes count as free, as in vLLM."""
        return self.cache.used / self.cache.capacity

    @property
    def idle(self) -> bool:
        return not self._requests

    @property
    def in_step(self) -> bool:
        return self._in_step

    def fits(self, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether this request could ever run here. One that does not must be refused, not submitted."""
        return -(-(prompt_tokens + output_tokens) // self.profile.block_tokens) <= self.cache.capacity

    def submit(self, request_id: int, *, prompt_tokens: int, output_tokens: int, blocks: Sequence[int] = ()) -> None:
        """Queue a request. `blocks`: chained hashes of its prompt's whole leading blocks."""
        assert prompt_tokens >= 1
        assert output_tokens >= 1
        assert len(blocks) * self.profile.block_tokens <= prompt_tokens
        assert self.fits(prompt_tokens, output_tokens)
        assert request_id not in self._requests
        sequence = _Sequence(request_id, prompt_tokens, output_tokens, tuple(blocks))
        self._requests[request_id] = sequence
        self._waiting.append(sequence)
        self._waiting_len += 1
        self.counters.submitted += 1
        self._steady = False

    def abort(self, request_id: int) -> bool:
        """Drop a request at the end of the step under way, or now when there is none.

        False when it is not here: it finished, or was aborted before. A request whose last token comes with
        the step under way finishes all the same.
        """
        sequence = self._requests.get(request_id)
        if sequence is None or sequence.aborting:
            return False
        sequence.aborting = True
        self._aborting.append(sequence)
        self._steady = False
        if not self._in_step:
            self._drop_aborted()
        return True

    def generating(self) -> Iterable[int]:
        """The requests that get one token each at the end of the step under way. Read it before `settle`."""
        return self._decoding.keys() if self._in_step else ()

    def step(self) -> StepResult:
        """Begin a step. Ends the one under way first."""
        self.settle()
        if not self._running and not self._waiting_len:
            return _IDLE
        self._step += 1
        self._in_step = True
        self.counters.steps += 1
        preempted = self._grow()
        sequences = len(self._decoding)
        prefill_tokens = 0
        admitted = first = _NO_IDS
        if self._prefilling or self._waiting_len:
            budget = self.profile.batch_tokens_max - sequences
            completed: list[_Sequence] = []
            left, continued = self._continue_prefills(budget, completed)
            sequences += continued
            # As in vLLM, nothing is admitted in a step that had to preempt: it would evict in turn.
            if not preempted:
                before = len(self._running)
                left, admitted = self._admit(left, completed)
                sequences += len(self._running) - before
            prefill_tokens = budget - left
            first = self._begin_decoding(completed)
        finished = self._collect_finishing()
        self._steady = not (prefill_tokens or finished or preempted)
        return StepResult(
            self.profile.step_ms(sequences, prefill_tokens),
            sequences,
            prefill_tokens,
            admitted,
            first,
            finished,
            preempted,
        )

    def settle(self) -> None:
        """End the step under way, if there is one: finished requests leave first, then aborted ones."""
        if not self._in_step:
            return
        self._in_step = False
        self.counters.generation_tokens += len(self._decoding)
        for sequence in self._finishing:
            self.counters.finished += 1
            self._leave(sequence)
        self._finishing = []
        self._drop_aborted()

    def ahead(self) -> int:
        """How many steps after the one under way are sure to equal it: same length, nobody comes or goes.

        Whoever waits stays blocked through them, because nothing is released. 0 once something was submitted
        or aborted during the step. A lower bound: block needs are rounded up.
        """
        if not self._in_step or not self._steady:
            return 0
        until_finish = min(self._calendar) - self._step - 1
        until_full = self.profile.block_tokens * (self.cache.free // len(self._decoding))
        return min(until_finish, until_full)

    def skip(self, steps: int) -> None:
        """Have `steps` steps pass, the one under way first; the last of their equals is then under way.

        What a caller does with it: schedule one end for `1 + ahead()` steps, and when a request comes or goes
        in between, `skip` the steps that ended, before `submit` or `abort`.
        """
        assert 0 <= steps <= self.ahead()
        for step in range(self._step + 1, self._step + steps + 1):
            due = self._growing[step % self.profile.block_tokens]
            if due:
                self.cache.allocate(len(due))
                for sequence in due.values():
                    sequence.private += 1
        self._step += steps
        self.counters.steps += steps
        self.counters.generation_tokens += steps * len(self._decoding)

    def cached_tokens(self, request_id: int) -> int:
        """Tokens that this request's last admission found in the prefix cache; 0 before the first."""
        return self._requests[request_id].cached_tokens

    def reset_prefix_cache(self) -> None:
        self.cache.forget()

    def _grow(self) -> tuple[int, ...]:
        """Give each decoder at a block boundary its next block, preempting the newest when none is free."""
        due = self._growing[self._step % self.profile.block_tokens]
        if not due:
            return _NO_IDS
        if len(due) <= self.cache.free:
            self.cache.allocate(len(due))
            for sequence in due.values():
                sequence.private += 1
            return _NO_IDS
        preempted: list[int] = []
        for sequence in list(due.values()):
            while sequence.phase is _Phase.DECODE and not self.cache.free:
                preempted.append(self._preempt_newest())
            if sequence.phase is _Phase.DECODE:
                self.cache.allocate(1)
                sequence.private += 1
        return tuple(preempted)

    def _preempt_newest(self) -> int:
        _, sequence = self._running.popitem()
        if sequence.phase is _Phase.DECODE:
            # The calendar says how many tokens were still to come, this step's among them.
            sequence.generated = sequence.output_tokens - (sequence.finish_step - self._step + 1)
        self._release(sequence)
        sequence.phase = _Phase.WAITING
        sequence.blocked_version = -1
        self._waiting.appendleft(sequence)
        self._waiting_len += 1
        self.counters.preemptions += 1
        return sequence.request_id

    def _continue_prefills(self, budget: int, completed: list[_Sequence]) -> tuple[int, int]:
        """Spend budget on prefills under way. Returns the budget left and how many sequences took part."""
        part = 0
        for sequence in self._prefilling.values():
            if not budget:
                break
            budget -= self._prefill(sequence, budget, completed)
            part += 1
        return budget, part

    def _admit(self, budget: int, completed: list[_Sequence]) -> tuple[int, tuple[int, ...]]:
        """Admit from the head of the queue while slot, KV and budget are there. First come, first served: a
        head that does not fit holds back all behind it. Returns the budget left and who left the queue."""
        admitted: list[int] = []
        while self._waiting and budget and len(self._running) < self.profile.slots:
            sequence = self._waiting[0]
            if sequence.phase is _Phase.GONE:  # Aborted while it waited.
                self._waiting.popleft()
                continue
            if not self._take_blocks(sequence):
                break
            self._waiting.popleft()
            self._waiting_len -= 1
            sequence.phase = _Phase.PREFILL
            self._running[sequence.request_id] = sequence
            self._prefilling[sequence.request_id] = sequence
            if not sequence.admitted:
                sequence.admitted = True
                admitted.append(sequence.request_id)
            budget -= self._prefill(sequence, budget, completed)
        return budget, tuple(admitted)

    def _take_blocks(self, sequence: _Sequence) -> bool:
        """Reserve KV for all that must be computed before the next token, as vLLM does by default."""
        cache = self.cache
        if sequence.blocked_version == cache.version:
            return False
        size = self.profile.block_tokens
        context = sequence.prompt_tokens + sequence.generated
        # One token at least must be computed, or there would be nothing to sample the next one from.
        hits, idle_hits = cache.match(sequence.blocks, (context - 1) // size)
        need = -(-context // size) - hits
        if need + idle_hits > cache.free:
            sequence.blocked_version = cache.version
            return False
        held = list(sequence.blocks[:hits])
        cache.hold(held)
        cache.allocate(need)
        sequence.held, sequence.private, sequence.published = held, need, hits
        sequence.prefill_left = context - hits * size
        if not sequence.admitted:
            self.counters.prefix_query_tokens += context
            self.counters.prefix_hit_tokens += hits * size
        sequence.cached_tokens = hits * size
        return True

    def _prefill(self, sequence: _Sequence, budget: int, completed: list[_Sequence]) -> int:
        taken = min(sequence.prefill_left, budget)
        sequence.prefill_left -= taken
        if sequence.published < len(sequence.blocks):
            self._publish(sequence)
        if not sequence.prefill_left:
            completed.append(sequence)
        return taken

    def _publish(self, sequence: _Sequence) -> None:
        """Share the prompt blocks that this chunk completes: who is admitted in this step may hit them."""
        context = sequence.prompt_tokens + sequence.generated
        whole = min((context - sequence.prefill_left) // self.profile.block_tokens, len(sequence.blocks))
        for block in sequence.blocks[sequence.published : whole]:
            if self.cache.publish(block):
                sequence.held.append(block)
                sequence.private -= 1
        sequence.published = max(sequence.published, whole)

    def _begin_decoding(self, completed: list[_Sequence]) -> tuple[int, ...]:
        """Enter sequences whose prefill completes in this step into the calendars of their decode."""
        first: list[int] = []
        for sequence in completed:
            request_id = sequence.request_id
            del self._prefilling[request_id]
            sequence.phase = _Phase.DECODE
            self._decoding[request_id] = sequence
            sequence.finish_step = self._step + sequence.output_tokens - sequence.generated - 1
            self._calendar.setdefault(sequence.finish_step, {})[request_id] = sequence
            # k steps from now `context + k` tokens must have a place; a block is due where that enters one.
            context = sequence.prompt_tokens + sequence.generated
            sequence.grow_phase = (self._step + 1 - context) % self.profile.block_tokens
            self._growing[sequence.grow_phase][request_id] = sequence
            if not sequence.generated:
                first.append(request_id)
                self.counters.prompt_tokens += sequence.prompt_tokens
        return tuple(first)

    def _collect_finishing(self) -> tuple[int, ...]:
        due = self._calendar.pop(self._step, None)
        if due is None:
            return _NO_IDS
        self._finishing = list(due.values())
        return tuple(due)

    def _drop_aborted(self) -> None:
        for sequence in self._aborting:
            if sequence.phase is not _Phase.GONE:  # Else it finished with the step that the abort waited for.
                self.counters.aborted += 1
                self._leave(sequence)
        self._aborting = []

    def _leave(self, sequence: _Sequence) -> None:
        if sequence.phase is _Phase.WAITING:
            self._waiting_len -= 1  # The deque drops it when it comes to the head, or here.
            if len(self._waiting) > 2 * self._waiting_len + 64:
                self._waiting = deque(
                    entry for entry in self._waiting if entry is not sequence and entry.phase is _Phase.WAITING
                )
        else:
            del self._running[sequence.request_id]
            self._release(sequence)
        sequence.phase = _Phase.GONE
        del self._requests[sequence.request_id]

    def _release(self, sequence: _Sequence) -> None:
        if sequence.phase is _Phase.PREFILL:
            del self._prefilling[sequence.request_id]
        else:
            del self._decoding[sequence.request_id]
            del self._growing[sequence.grow_phase][sequence.request_id]
            due = self._calendar.get(sequence.finish_step)
            if due is not None:  # None: it finished, and the step took its entry.
                del due[sequence.request_id]
                if not due:
                    del self._calendar[sequence.finish_step]
        self.cache.release(sequence.held, sequence.private)
        sequence.held, sequence.private = [], 0

    def check(self) -> None:
        """State what must hold between any two calls. Costs a walk: for tests and simulation checkers."""
        self.cache.check()
        running = self._running.values()
        assert len(self._running) <= self.profile.slots
        assert self._running.keys() == self._prefilling.keys() | self._decoding.keys()
        assert len(self._running) + self._waiting_len == len(self._requests)
        assert self.cache.private == sum(sequence.private for sequence in running)
        assert self.cache.held == len({block for sequence in running for block in sequence.held})
        assert sum(map(len, self._growing)) == len(self._decoding)
        finishing = len(self._finishing) if self._in_step else 0
        assert sum(map(len, self._calendar.values())) == len(self._decoding) - finishing
        counters = self.counters
        assert counters.submitted == counters.finished + counters.aborted + len(self._requests)


_NO_IDS: tuple[int, ...] = ()
_IDLE = StepResult(0.0, 0, 0, _NO_IDS, _NO_IDS, _NO_IDS, _NO_IDS)
