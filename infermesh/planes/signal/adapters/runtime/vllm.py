"""vLLM, and everything that speaks its HTTP API and metric names: the emulated engine is sampled by this too.

One sample is one GET of `/metrics` on a kept connection; `/health` and `/v1/models` are asked at their own,
slower pace, and the list at once when the page speaks of a model that is not on it. Names and their meaning:
vllm_page.py. A runtime whose `/v1/models` says `owned_by: infermesh-emulator` is reported as "emulated".

What the server cannot tell comes from config: real vLLM does not export `--max-num-seqs`, so `slots` is what the
operator says (times the number of data-parallel engines). Loading and unloading are not offered: the base model
is fixed per process, and a LoRA adapter needs a path that only the operator knows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import trio

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.net.fetch import FetchError, HttpClient
from infermesh.planes.signal.adapters.runtime.counter_window import CounterWindow, Recent, Totals
from infermesh.planes.signal.adapters.runtime.openai_models import MODELS_MAX, read_model_list
from infermesh.planes.signal.adapters.runtime.port import (
    Capability,
    CapabilityMissingError,
    ListedModel,
    RuntimeAdapterError,
)
from infermesh.planes.signal.adapters.runtime.prometheus_text import MetricsTextError
from infermesh.planes.signal.adapters.runtime.vllm_page import EngineReading, PageReading, VllmPageReader
from infermesh.planes.signal.adapters.stamps import Incarnation, SequenceSource
from infermesh.planes.signal.event_log import EventLog

# The captured page has 60 KB; a hundred LoRA adapters and engines do not make it a hundred times as long.
METRICS_BYTES_MAX: Final = 4 * 2**20
MODELS_BYTES_MAX: Final = 2**20
RELIST_AFTER_S: Final = 1.0


class VllmConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One runtime of this node. `deadline_s` should stay below `routing.stale_after_s`."""

    url: str
    slots: int = 256
    deadline_s: float = 2.0  # For one sample, all its requests together.
    health_every_s: float = 1.0
    list_every_s: float = 10.0
    window_s: float = 5.0  # Means and rates are taken over this long.

    def validate(self) -> None:
        for name in ("deadline_s", "health_every_s", "list_every_s", "window_s"):
            value = getattr(self, name)
            if not 0.0 < value < 3600.0:
                raise ValueError(f"runtime {self.url}: {name} is {value}; above 0 and below 3600 is allowed")
        if not 0 < self.slots <= 1_000_000:
            raise ValueError(f"runtime {self.url}: slots is {self.slots}; 1 to 1000000 is allowed")


class VllmAdapter:
    """The adapter of one server. Owned by one sampler task, which also closes it."""

    capabilities: Final = frozenset({Capability.SAMPLE, Capability.LIST, Capability.HEALTH})

    def __init__(
        self, config: VllmConfig, node: NodeId, log: EventLog, *, unix_time: Callable[[], float] = time.time
    ) -> None:
        config.validate()
        self._config = config
        self._node = node
        self._log = log
        self._unix_time = unix_time
        self._client = HttpClient(config.url)
        self._page = VllmPageReader()
        self._sequences = SequenceSource(unix_time)
        self._incarnation = Incarnation(unix_time)
        self._windows: dict[str, CounterWindow] = {}
        self._listed: dict[ModelName, ListedModel] = {}
        self._listed_at = -math.inf
        self._list_at = -math.inf
        self._health_at = -math.inf
        self._last: dict[ModelName, ModelState] = {}
        self._warned: set[str] = set()
        self._trouble = ""

    @property
    def kind(self) -> str:
        return "emulated" if any(model.emulated for model in self._listed.values()) else "vllm"

    async def start(self) -> None:
        await self.list()

    async def sample(self) -> tuple[ModelState, ...]:
        deadline = trio.current_time() + self._config.deadline_s
        try:
            reading = await self._read(deadline)
        except (RuntimeAdapterError, MetricsTextError) as error:
            self._say_trouble(str(error))
            lifecycle = Lifecycle.FAILED if isinstance(error, _UnhealthyError) else Lifecycle.UNKNOWN
            return self._keep(tuple(self._without_news(model, lifecycle) for model in self._listed.values()))
        self._say_trouble(_who_sleeps(reading))
        return self._keep(self._states(reading))

    async def list(self) -> tuple[ListedModel, ...]:
        await self._refresh_list(trio.current_time() + self._config.deadline_s)
        return tuple(self._listed.values())

    async def load(self, name: ModelName) -> None:
        raise CapabilityMissingError(
            f"{self._config.url}: vLLM serves the model it was started with; {name} not loaded"
        )

    async def unload(self, name: ModelName) -> None:
        raise CapabilityMissingError(
            f"{self._config.url}: vLLM keeps the model it was started with; {name} not unloaded"
        )

    async def health(self) -> bool:
        try:
            await self._get("/health", trio.current_time() + self._config.deadline_s, MODELS_BYTES_MAX)
        except _UnhealthyError:
            return False
        return True

    async def aclose(self) -> None:
        await self._client.aclose()

    # --- Asking ---

    async def _read(self, deadline: float) -> PageReading:
        now = trio.current_time()
        if now >= self._health_at:
            await self._get("/health", deadline, MODELS_BYTES_MAX)
            self._health_at = now + self._config.health_every_s
        reading = self._page.read(await self._get("/metrics", deadline, METRICS_BYTES_MAX))
        if any(name and name not in self._listed for name in reading.engines):
            # At once for a model just loaded, but not at each sample for one that is never listed.
            self._list_at = min(self._list_at, self._listed_at + RELIST_AFTER_S)
        if now >= self._list_at:
            await self._refresh_list(deadline)
        if self._incarnation.take(reading.started_unix_s, ran_backwards=self._ran_backwards(reading)):
            for window in self._windows.values():
                window.restart()
            self._warned.clear()
        for name in reading.missing:
            self._warn_once("runtime_metric_missing", name, url=self._config.url)
        if not reading.tells_load:
            missing = ", ".join(reading.missing)
            raise RuntimeAdapterError(f"GET {self._config.url}/metrics: does not tell the load, {missing} missing")
        return reading

    async def _refresh_list(self, deadline: float) -> None:
        body = await self._get("/v1/models", deadline, MODELS_BYTES_MAX)
        self._listed = {model.name: model for model in self._read_list(body)}
        self._listed_at = trio.current_time()
        self._list_at = self._listed_at + self._config.list_every_s

    async def _get(self, path: str, deadline: float, body_bytes_max: int) -> bytes:
        remaining_s = max(0.0, deadline - trio.current_time())
        try:
            response = await self._client.request(path, deadline_s=remaining_s, body_bytes_max=body_bytes_max)
        except FetchError as error:
            # Whatever it was doing, it may be another process by now.
            self._health_at = self._list_at = -math.inf
            raise RuntimeAdapterError(str(error)) from error
        if response.status == 200:
            return response.body
        self._health_at = -math.inf
        refusal = f"GET {self._config.url}{path}: answered {response.status}, 200 was expected"
        raise _UnhealthyError(refusal) if path == "/health" else RuntimeAdapterError(refusal)

    def _read_list(self, body: bytes) -> tuple[ListedModel, ...]:
        models, left_out = read_model_list(body, f"GET {self._config.url}/v1/models")
        if left_out:
            self._warn_once("runtime_models_left_out", f"{left_out} of {left_out + len(models)}", allowed=MODELS_MAX)
        return models

    # --- Telling ---

    def _states(self, reading: PageReading) -> tuple[ModelState, ...]:
        now = trio.current_time()
        recents: dict[str, Recent] = {}
        for name, engine in reading.engines.items():
            window = self._windows.setdefault(name, CounterWindow(self._config.window_s))
            recents[name] = window.add(engine.totals, now)
        for name in sorted(self._windows.keys() - reading.engines.keys()):
            del self._windows[name]
        states = []
        for model in self._listed.values():
            label = _engine_of(model, reading.engines)
            if label is None:
                self._warn_once("runtime_metrics_lack_model", model.name, url=self._config.url)
                states.append(self._without_news(model, Lifecycle.UNKNOWN))
                continue
            engine = reading.engines[label]
            # Asleep it answers /health with 200 and would leave a request waiting for ever.
            lifecycle = Lifecycle.READY if engine.awake else Lifecycle.UNKNOWN
            states.append(self._state(model, engine, recents[label], lifecycle))
        # Of a model that left the list this is said once more, so that routers stop at once, and then no more.
        gone = [ListedModel(name=name) for name in self._last if name not in self._listed]
        return (*states, *(self._without_news(model, Lifecycle.UNKNOWN) for model in gone))

    def _state(self, model: ListedModel, engine: EngineReading, recent: Recent, lifecycle: Lifecycle) -> ModelState:
        return ModelState(
            node=self._node,
            model=model.name,
            runtime="emulated" if model.emulated else "vllm",
            incarnation=self._incarnation.number,
            sequence=self._sequences.next(),
            source_time=self._unix_time(),
            lifecycle=lifecycle,
            queue_len=engine.queue_len,
            running=engine.running,
            slots=self._config.slots,
            kv_usage=engine.kv_usage,
            kv_capacity_tokens=engine.kv_capacity_tokens,
            ttft_ms=recent.ttft_ms,
            itl_ms=recent.itl_ms,
            prompt_tokens_per_s=recent.prompt_tokens_per_s,
            generation_tokens_per_s=recent.generation_tokens_per_s,
            prefix_hit_rate=recent.prefix_hit_rate,
            context_tokens_max=model.context_tokens_max,
        )

    def _without_news(self, model: ListedModel, lifecycle: Lifecycle) -> ModelState:
        """The last known load stays: an engine that cannot be asked must not look idle."""
        last = self._last.get(model.name)
        if last is None:
            return self._state(model, _NEVER_READ, Recent(), lifecycle)
        return msgspec.structs.replace(
            last, lifecycle=lifecycle, sequence=self._sequences.next(), source_time=self._unix_time()
        )

    def _keep(self, states: tuple[ModelState, ...]) -> tuple[ModelState, ...]:
        # A model that left the list is told one last time by this sample and not kept for the next.
        self._last = {state.model: state for state in states if state.model in self._listed}
        return states

    def _ran_backwards(self, reading: PageReading) -> bool:
        return any(
            self._windows[name].ran_backwards(engine.totals)
            for name, engine in reading.engines.items()
            if name in self._windows
        )

    def _say_trouble(self, trouble: str) -> None:
        if trouble and not self._trouble:
            self._log.warning("runtime_unreadable", url=self._config.url, reason=trouble)
        elif self._trouble and not trouble:
            self._log.info("runtime_readable_again", url=self._config.url)
        self._trouble = trouble

    def _warn_once(self, event: str, subject: str, **fields: object) -> None:
        if f"{event} {subject}" not in self._warned and len(self._warned) < MODELS_MAX:
            self._warned.add(f"{event} {subject}")
            self._log.warning(event, subject=subject, **fields)


class _UnhealthyError(RuntimeAdapterError):
    """The runtime answered, and the answer was that it cannot serve."""


def _engine_of(model: ListedModel, engines: Mapping[str, EngineReading]) -> str | None:
    """Whose metrics speak for `model`: its own, its base model's, or those of the only engine there is.

    The last case are further names of the base model: vLLM labels its metrics with the first one only.
    """
    if model.name in engines:
        return model.name
    if model.parent is not None and model.parent in engines:
        return model.parent
    return next(iter(engines)) if len(engines) == 1 else None


def _who_sleeps(reading: PageReading) -> str:
    asleep = [name for name, engine in reading.engines.items() if not engine.awake]
    return f"asleep: {', '.join(asleep)}" if asleep else ""


_NEVER_READ: Final = EngineReading(
    running=0, queue_len=0, kv_usage=0.0, kv_capacity_tokens=0, awake=False, totals=Totals()
)
