"""One simulated GPU node: an engine on virtual time, what it measures of itself, and its faults.

The same `Engine` as the emulator's. A run of equal steps is one event: `ends_at` is the end of the run, and a
request that comes or goes in between cuts it at the next step boundary.
"""

from __future__ import annotations

import math

import msgspec

from infermesh.core.model.engine import PROFILES, Engine, EngineProfile
from infermesh.core.model.names import NodeId
from infermesh.core.model.state import Lifecycle, LoadHint, ModelState
from infermesh.sim.trace import MOONCAKE_BLOCK_TOKENS
from infermesh.sim.workload import MODEL, SimRequest


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the simulated fleet. `profile` is that of the engine at `speed` 1.0."""

    name: str
    profile: EngineProfile
    speed: float = 1.0
    rtt_s: float = 0.001


def make_nodes(text: str, *, block_tokens: int = MOONCAKE_BLOCK_TOKENS, rtt_s: float = 0.001) -> tuple[NodeSpec, ...]:
    """Nodes from a list such as `1,1,0.5` or `h100,l40s:0.5`: a speed, a profile, or both; h100 at 1 otherwise.

    Blocks are as long as those that Mooncake's trace tells apart. Raises ValueError that names the bad part.
    """
    nodes: list[NodeSpec] = []
    for index, part in enumerate(text.split(",")):
        name, _, factor = part.strip().rpartition(":")
        if not name and factor in PROFILES:
            name, factor = factor, "1"
        profile = PROFILES.get(name or "h100")
        if profile is None:
            raise ValueError(f"{part.strip()!r}: no profile {name!r}; known are {', '.join(PROFILES)}")
        try:
            speed = float(factor)
        except ValueError:
            raise ValueError(f"{part.strip()!r} is neither a speed, a profile, nor PROFILE:SPEED") from None
        if not 0.001 <= speed <= 1000.0:
            raise ValueError(f"{part.strip()!r}: a speed is from 0.001 to 1000")
        spec = NodeSpec(name=f"gpu-{index}", profile=profile.with_block_tokens(block_tokens), speed=speed, rtt_s=rtt_s)
        nodes.append(spec)
    return tuple(nodes)


class StepEnd(msgspec.Struct, frozen=True):
    """What came at the end of a step."""

    first: tuple[tuple[int, int], ...]  # Request, and how many of its prompt tokens were cached.
    finished: tuple[int, ...]


class _Window:
    """Counters at the last sample, to make rates of."""

    __slots__ = ("gap_ms", "gaps", "generated", "hit", "prompt", "query", "since")

    def __init__(self) -> None:
        self.since = 0.0
        self.prompt = self.generated = self.query = self.hit = self.gaps = 0
        self.gap_ms = 0.0


class SimNode:
    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.name = NodeId(spec.name)
        self.incarnation = 1
        self.slowdown = 1.0  # Above 1: a fault makes every step that much longer.
        self.up = True
        self.ends_at = math.inf  # When what is under way ends; inf: idle.
        self.busy_s = 0.0
        self._counted_tokens = 0
        self.engine = self._new_engine()
        self._began = 0.0
        self._step_s = 0.0
        self._first: tuple[int, ...] = ()
        self._finished: tuple[int, ...] = ()
        self._sequence = 0
        self._gaps = 0
        self._gap_ms = 0.0
        self._itl_ms = 0.0
        self._window = _Window()

    def submit(self, request: SimRequest, now: float) -> None:
        self._cut(now)
        self.engine.submit(
            request.number,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            blocks=request.engine_blocks,
        )
        if not self.engine.in_step:
            self._begin(now)

    def abort(self, number: int, now: float) -> bool:
        self._cut(now)
        return self.engine.abort(number)

    def end_step(self, now: float) -> StepEnd:
        """End what is under way, at `ends_at`, and begin the next step."""
        assert now == self.ends_at
        engine = self.engine
        run = engine.ahead()
        if run and now - self._began > 1.5 * self._step_s:
            engine.skip(run)
        ended = StepEnd(tuple((number, engine.cached_tokens(number)) for number in self._first), self._finished)
        self.busy_s += now - self._began
        before = self._counted_tokens
        engine.settle()
        after = engine.counters.generation_tokens
        gaps = after - before - len(ended.first)
        self._gaps += gaps
        self._gap_ms += gaps * self._step_s * 1e3
        self._counted_tokens = after
        self._begin(now)
        return ended

    def hint(self) -> LoadHint:
        engine = self.engine
        return LoadHint(self.incarnation, engine.queue_len, engine.running, engine.kv_usage)

    def sample(self, now: float) -> ModelState:
        """The state as an adapter would report it: gauges of this moment, rates since the sample before."""
        self._cut(now)
        engine, counters, window = self.engine, self.engine.counters, self._window
        elapsed = max(now - window.since, 1e-9)
        query = counters.prefix_query_tokens - window.query
        gaps = self._gaps - window.gaps
        if gaps > 0:
            self._itl_ms = (self._gap_ms - window.gap_ms) / gaps
        self._sequence += 1
        state = ModelState(
            node=self.name,
            model=MODEL,
            runtime="emulated",
            incarnation=self.incarnation,
            sequence=self._sequence,
            source_time=now,
            lifecycle=Lifecycle.READY,
            queue_len=engine.queue_len,
            running=engine.running,
            slots=engine.profile.slots,
            kv_usage=engine.kv_usage,
            kv_capacity_tokens=engine.profile.kv_capacity_tokens,
            itl_ms=self._itl_ms,
            prompt_tokens_per_s=(counters.prompt_tokens - window.prompt) / elapsed,
            generation_tokens_per_s=(counters.generation_tokens - window.generated) / elapsed,
            prefix_hit_rate=(counters.prefix_hit_tokens - window.hit) / query if query else 0.0,
        )
        window.since = now
        window.prompt, window.generated = counters.prompt_tokens, counters.generation_tokens
        window.query, window.hit = counters.prefix_query_tokens, counters.prefix_hit_tokens
        window.gaps, window.gap_ms = self._gaps, self._gap_ms
        return state

    def crash(self) -> None:
        """All that was in the engine is gone, and its cache."""
        self.up = False
        self.ends_at = math.inf
        self.engine = self._new_engine()

    def restart(self, now: float) -> None:
        self.up = True
        self.incarnation += 1
        self._window = _Window()
        self._window.since = now
        self._gaps, self._gap_ms, self._itl_ms = 0, 0.0, 0.0

    def least_ttft_ms(self, prompt_tokens: int, cached_tokens: int) -> float:
        """Below this no request can be answered by this node."""
        return self.engine.profile.least_prefill_ms(prompt_tokens, cached_tokens)

    def _new_engine(self) -> Engine:
        self._counted_tokens = 0
        return Engine(self.spec.profile.at_speed(self.spec.speed))

    def _begin(self, now: float) -> None:
        result = self.engine.step()
        if result.duration_ms == 0.0:
            self.ends_at = math.inf
            return
        self._began = now
        self._step_s = result.duration_ms * 1e-3 * self.slowdown
        self._first, self._finished = result.first, result.finished
        self.ends_at = now + self._step_s * (1 + self.engine.ahead())

    def _cut(self, now: float) -> None:
        """Somebody comes or goes: steps of the run that are over are over, the one under way ends the run."""
        if self.ends_at == math.inf:
            return
        passed = min(int((now - self._began) / self._step_s), self.engine.ahead())
        if passed > 0:
            self.engine.skip(passed)
            self.busy_s += passed * self._step_s
            self._began += passed * self._step_s
            tokens = self.engine.counters.generation_tokens
            self._gaps += tokens - self._counted_tokens
            self._gap_ms += (tokens - self._counted_tokens) * self._step_s * 1e3
            self._counted_tokens = tokens
        self.ends_at = self._began + self._step_s
