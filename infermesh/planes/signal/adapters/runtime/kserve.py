"""Servers of the KServe v2 protocol (Open Inference Protocol): Triton, MLServer, OVMS. Their REST face is asked.

One server serves several models, each of which is a target of its own. Which they are says its repository index,
or the config where a server has none (OVMS). A model may be chosen when its index row and its own `/ready` agree.
The server's `/v2/health/ready` decides nothing: Triton with strict readiness calls the whole server not ready for
a second whenever any model is unloaded, and MLServer calls itself ready with no model left.

The queue, and how long requests take, come from the metrics page where `metrics_url` names it. Without it, and for
everything that such servers do not tell (slots, KV memory, tokens), 0 stays, which means unknown; the router then
goes by its own counts. `ttft_ms` is the time to the whole answer for models that answer once; of a decoupled model,
which Triton's model config tells, it stays unknown unless the page has a time to the first response.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, Unpack
from urllib.parse import quote

import msgspec
import trio

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.net.fetch import (
    FetchedResponse,
    FetchError,
    FetchRefusedError,
    FetchTimeoutError,
    HttpClient,
    RequestOptions,
    fetch,
)
from infermesh.planes.signal.adapters.runtime.counter_window import Recent
from infermesh.planes.signal.adapters.runtime.kserve_index import read_index
from infermesh.planes.signal.adapters.runtime.kserve_load import KServeLoad, ModelLoad
from infermesh.planes.signal.adapters.runtime.kserve_page import QUEUE
from infermesh.planes.signal.adapters.runtime.openai_models import MODELS_MAX
from infermesh.planes.signal.adapters.runtime.port import (
    Capability,
    CapabilityMissingError,
    ListedModel,
    RuntimeAdapterError,
)
from infermesh.planes.signal.adapters.stamps import Incarnation, SequenceSource
from infermesh.planes.signal.event_log import EventLog

INDEX_BYTES_MAX: Final = 2**20
ANSWER_BYTES_MAX: Final = 2**20
# Readiness questions in one sample; a server with more models has them asked in turn.
READY_ASKED_MAX: Final = 16
_INDEX: Final = "/v2/repository/index"
_JSON: Final = ((b"content-type", b"application/json"),)
# What servers without an index answer to it.
_NOT_OFFERED: Final = frozenset({400, 404, 405, 501})


class KServeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One runtime of this node. `deadline_s` should stay below `routing.stale_after_s`."""

    url: str
    kind: str = "kserve"  # "triton" has a model config that tells which models stream.
    models: tuple[str, ...] = ()  # What it serves; (): what its index says.
    metrics_url: str = ""  # The whole URL of the page; "": none.
    slots: int = 256
    deadline_s: float = 2.0  # For one sample, all its requests together.
    load_deadline_s: float = 300.0  # Large models are read from disk meanwhile.
    window_s: float = 5.0

    def validate(self) -> None:
        for name in ("deadline_s", "load_deadline_s", "window_s"):
            value = getattr(self, name)
            if not 0.0 < value < 3600.0:
                raise ValueError(f"runtime {self.url}: {name} is {value}; above 0 and below 3600 is allowed")
        if not 0 < self.slots <= 1_000_000:
            raise ValueError(f"runtime {self.url}: slots is {self.slots}; 1 to 1000000 is allowed")
        if len(self.models) > MODELS_MAX:
            raise ValueError(f"runtime {self.url}: {len(self.models)} models are named; up to {MODELS_MAX} are allowed")


class KServeAdapter:
    """The adapter of one server. Owned by one sampler task, which also closes it."""

    def __init__(
        self, config: KServeConfig, node: NodeId, log: EventLog, *, unix_time: Callable[[], float] = time.time
    ) -> None:
        config.validate()
        self._config = config
        self._node = node
        self._log = log
        self._unix_time = unix_time
        self._client = HttpClient(config.url)
        self._load = KServeLoad(config.metrics_url, config.window_s) if config.metrics_url else None
        self._sequences = SequenceSource(unix_time)
        self._incarnation = Incarnation(unix_time)
        self._listed: dict[ModelName, Lifecycle] = {}
        self._answers: dict[ModelName, bool] = {}  # By `/ready`, when it was last asked.
        self._streams: dict[ModelName, bool] = {}  # By the model config; of ready models only.
        self._asked_from = 0
        self._was_gone = False  # Nobody listened: what listens next is another process.
        self._last: dict[ModelName, ModelState] = {}
        self._troubles: set[str] = set()
        self._warned: set[str] = set()

    @property
    def kind(self) -> str:
        return self._config.kind

    @property
    def capabilities(self) -> frozenset[Capability]:
        known = {Capability.SAMPLE, Capability.LIST, Capability.HEALTH}
        # A server without an index has no calls to load and unload either.
        return frozenset(known if self._config.models else known | {Capability.LOAD, Capability.UNLOAD})

    async def start(self) -> None:
        await self.list()

    async def sample(self) -> tuple[ModelState, ...]:
        deadline = trio.current_time() + self._config.deadline_s
        try:
            await self._refresh_list(deadline)
            await self._ask_ready(deadline)
            await self._ask_streams(deadline)
        except RuntimeAdapterError as error:
            self._say_trouble("runtime_unreadable", str(error))
            return self._keep(tuple(self._state(name, Lifecycle.UNKNOWN, None) for name in self._listed))
        self._say_trouble("runtime_unreadable", "")
        loads = await self._read_load(deadline)
        return self._keep(self._states(loads))

    async def list(self) -> tuple[ListedModel, ...]:
        await self._refresh_list(trio.current_time() + self._config.deadline_s)
        return tuple(ListedModel(name=name) for name in self._listed)

    async def load(self, name: ModelName) -> None:
        """Returns when the model is loaded; raises RuntimeAdapterError with the server's own words when it is not."""
        await self._change("load", name)

    async def unload(self, name: ModelName) -> None:
        """Returns when the server has agreed; it ends what it has begun, and the index says when it is done."""
        await self._change("unload", name)

    async def health(self) -> bool:
        deadline = trio.current_time() + self._config.deadline_s
        return (await self._ask("/v2/health/ready", deadline, ANSWER_BYTES_MAX)).status == 200

    async def aclose(self) -> None:
        await self._client.aclose()
        if self._load is not None:
            await self._load.aclose()

    # --- Asking ---

    async def _refresh_list(self, deadline: float) -> None:
        if self._config.models:
            self._listed = {ModelName(name): Lifecycle.READY for name in self._config.models}
            return
        what = f"POST {self._config.url}{_INDEX}"
        response = await self._ask(_INDEX, deadline, INDEX_BYTES_MAX, method="POST", headers=_JSON, body=b"{}")
        if response.status in _NOT_OFFERED:
            raise RuntimeAdapterError(
                f"{what}: answered {response.status}, so this server seems to have no index; name its models in "
                "`models` of its [[runtimes]] entry"
            )
        if response.status != 200:
            raise RuntimeAdapterError(f"{what}: answered {response.status}, 200 was expected")
        self._listed, left_out = read_index(response.body, what)
        if left_out:
            self._warn_once("runtime_models_left_out", f"{left_out} of {left_out + len(self._listed)}")

    async def _ask_ready(self, deadline: float) -> None:
        names = [name for name, lifecycle in self._listed.items() if lifecycle is Lifecycle.READY]
        self._answers = {name: answers for name, answers in self._answers.items() if name in self._listed}
        begin = self._asked_from % len(names) if len(names) > READY_ASKED_MAX else 0
        for name in [*names[begin:], *names[:begin]][:READY_ASKED_MAX]:
            response = await self._ask(_model_path(name, "/ready"), deadline, ANSWER_BYTES_MAX)
            self._answers[name] = response.status == 200
        self._asked_from = begin + READY_ASKED_MAX

    async def _ask_streams(self, deadline: float) -> None:
        """Once after each load: a model may come back with another config."""
        ready = {name for name in self._listed if self._lifecycle(name) is Lifecycle.READY}
        self._streams = {name: streams for name, streams in self._streams.items() if name in ready}
        if self._config.kind != "triton" or self._load is None:
            return
        for name in sorted(ready - self._streams.keys())[:READY_ASKED_MAX]:
            response = await self._ask(_model_path(name, "/config"), deadline, ANSWER_BYTES_MAX)
            self._streams[name] = _is_decoupled(response)

    async def _read_load(self, deadline: float) -> Mapping[ModelName, ModelLoad]:
        """By model; empty when there is no page or it cannot be read. Notices a restarted server by the way."""
        started_unix_s, ran_backwards = 0.0, False
        loads: Mapping[ModelName, ModelLoad] = {}
        if self._was_gone and self._load is not None:
            self._load.restart()
        if self._load is not None:
            try:
                await self._load.read(deadline)
            except RuntimeAdapterError as error:
                # It serves all the same; what was last known of its load stays.
                self._say_trouble("runtime_metrics_unreadable", str(error))
            else:
                self._say_trouble("runtime_metrics_unreadable", "")
                started_unix_s, ran_backwards = self._load.started_unix_s, self._load.ran_backwards
                loads = self._load.take(trio.current_time())
                if self._config.kind == "triton" and loads and not self._load.tells_queue:
                    self._warn_once("runtime_metric_missing", QUEUE.name)
        another = self._was_gone or ran_backwards
        self._was_gone = False
        if self._incarnation.take(started_unix_s, ran_backwards=another):
            self._warned.clear()
        return loads

    async def _change(self, verb: str, name: ModelName) -> None:
        if Capability.LOAD not in self.capabilities:
            raise CapabilityMissingError(
                f"{self._config.url}: its models are named in the config, so it has no index and cannot {verb} {name}"
            )
        url = f"{self._config.url}/v2/repository/models/{quote(name, safe='')}/{verb}"
        try:
            # On a connection of its own: samples go on while a large model is loaded.
            response = await fetch(
                url,
                deadline_s=self._config.load_deadline_s,
                body_bytes_max=ANSWER_BYTES_MAX,
                method="POST",
                headers=_JSON,
                body=b"{}",
            )
        except FetchError as error:
            raise RuntimeAdapterError(str(error)) from error
        if response.status != 200:
            said = response.body[:200].decode("utf-8", "replace")
            raise RuntimeAdapterError(f"POST {url}: answered {response.status}, 200 was expected: {said}")

    async def _ask(
        self, path: str, deadline: float, body_bytes_max: int, **request: Unpack[RequestOptions]
    ) -> FetchedResponse:
        """One question that changes nothing, so that it is asked again when the kept connection was dead."""
        error: FetchError | None = None
        for _ in range(2):
            remaining_s = max(0.0, deadline - trio.current_time())
            try:
                return await self._client.request(
                    path, deadline_s=remaining_s, body_bytes_max=body_bytes_max, **request
                )
            except (FetchRefusedError, FetchTimeoutError) as final:
                self._was_gone = self._was_gone or isinstance(final, FetchRefusedError)
                raise RuntimeAdapterError(str(final)) from final
            except FetchError as failed:
                error = failed
        raise RuntimeAdapterError(str(error)) from error

    # --- Telling ---

    def _lifecycle(self, name: ModelName) -> Lifecycle:
        lifecycle = self._listed[name]
        if lifecycle is Lifecycle.READY and not self._answers.get(name, True):
            return Lifecycle.UNKNOWN
        return lifecycle

    def _states(self, loads: Mapping[ModelName, ModelLoad]) -> tuple[ModelState, ...]:
        states = [self._state(name, self._lifecycle(name), loads.get(name)) for name in self._listed]
        # Of a model that left the list this is said once more, so that routers stop at once, and then no more.
        gone = [name for name in self._last if name not in self._listed]
        return (*states, *(self._state(name, Lifecycle.UNKNOWN, None) for name in gone))

    def _state(self, name: ModelName, lifecycle: Lifecycle, load: ModelLoad | None) -> ModelState:
        """Without a load, what was last known of it stays: a server that cannot be asked must not look idle."""
        last = self._last.get(name)
        if load is None and last is not None:
            return msgspec.structs.replace(
                last,
                lifecycle=lifecycle,
                incarnation=self._incarnation.number,
                sequence=self._sequences.next(),
                source_time=self._unix_time(),
            )
        load = load if load is not None else ModelLoad()
        recent = load.whole
        if load.first is not None:
            recent = load.first
        elif self._streams.get(name):
            recent = Recent()
        return ModelState(
            node=self._node,
            model=name,
            runtime=self._config.kind,
            incarnation=self._incarnation.number,
            sequence=self._sequences.next(),
            source_time=self._unix_time(),
            lifecycle=lifecycle,
            queue_len=load.queue_len,
            running=load.running,
            slots=self._config.slots,
            ttft_ms=recent.ttft_ms,
        )

    def _keep(self, states: tuple[ModelState, ...]) -> tuple[ModelState, ...]:
        # A model that left the list is told one last time by this sample and not kept for the next.
        self._last = {state.model: state for state in states if state.model in self._listed}
        return states

    def _say_trouble(self, event: str, trouble: str) -> None:
        """`event` once when the trouble begins, and once when it ends."""
        if trouble and event not in self._troubles:
            self._troubles.add(event)
            self._log.warning(event, url=self._config.url, reason=trouble)
        elif not trouble and event in self._troubles:
            self._troubles.discard(event)
            self._log.info(event.replace("unreadable", "readable_again"), url=self._config.url)

    def _warn_once(self, event: str, subject: str, **fields: object) -> None:
        if f"{event} {subject}" not in self._warned and len(self._warned) < MODELS_MAX:
            self._warned.add(f"{event} {subject}")
            self._log.warning(event, subject=subject, url=self._config.url, **fields)


def _model_path(name: ModelName, rest: str) -> str:
    return f"/v2/models/{quote(name, safe='')}{rest}"


class _TransactionPolicy(msgspec.Struct):
    decoupled: bool = False


class _ModelConfig(msgspec.Struct):
    model_transaction_policy: _TransactionPolicy | None = None


def _is_decoupled(response: FetchedResponse) -> bool:
    """Whether it answers one request several times. One that does not say is taken for one that answers once."""
    if response.status != 200:
        return False
    try:
        policy = msgspec.json.decode(response.body, type=_ModelConfig).model_transaction_policy
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return policy is not None and policy.decoupled
