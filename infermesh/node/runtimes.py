"""The runtimes of a GPU node: each with its adapter and sampler, its pools, and its newest states.

Without a configured runtime the node serves an emulated engine of its own, in this process and said so wherever
it shows. It is reached like any runtime, over HTTP and through the same adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlsplit

import msgspec
import trio

from infermesh.core.model.names import NodeId, TargetKey, target_key
from infermesh.core.model.ports import Rng
from infermesh.core.model.profiles import PROFILES
from infermesh.core.model.state import GpuState, ModelState
from infermesh.emulator import EmulatorConfig, EmulatorServer, serve_emulator
from infermesh.node.config import NodeConfig
from infermesh.node.config_sections import KSERVE_KINDS, RuntimeSection
from infermesh.observe.logs import Logger
from infermesh.planes.data.pools import Pools
from infermesh.planes.signal.adapters.gpu.nvml import NvmlAdapter
from infermesh.planes.signal.adapters.runtime.kserve import KServeAdapter, KServeConfig
from infermesh.planes.signal.adapters.runtime.port import RuntimeAdapter
from infermesh.planes.signal.adapters.runtime.vllm import VllmAdapter, VllmConfig
from infermesh.planes.signal.sampler import run_gpu_sampler, run_sampler

_EMULATOR_RESTART_S = 1.0


@dataclass(frozen=True, slots=True)
class RuntimeAddress:
    url: str
    slots: int


def runtime_adapter(section: RuntimeSection, node: NodeId, log: Logger) -> RuntimeAdapter:
    """The adapter of one configured runtime."""
    if section.kind not in KSERVE_KINDS:
        return VllmAdapter(VllmConfig(url=section.url, slots=section.slots), node, log)
    config = KServeConfig(
        url=section.url,
        kind=section.kind,
        slots=section.slots,
        models=section.models,
        metrics_url=section.metrics_url,
    )
    return KServeAdapter(config, node, log)


class Runtimes:
    """Owned by the node's assembly. `report` and `report_gpu` hand every state on: to kernel and publisher."""

    def __init__(
        self,
        config: NodeConfig,
        pools: Pools,
        *,
        report: Callable[[ModelState], None],
        report_gpu: Callable[[GpuState], None],
        rng: Rng,
        log: Logger,
    ) -> None:
        self._config = config
        self._pools = pools
        self._report = report
        self._report_gpu = report_gpu
        self._rng = rng
        self._log = log
        self._latest: dict[TargetKey, ModelState] = {}

    def latest(self, key: TargetKey) -> ModelState | None:
        return self._latest.get(key)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sample everything until cancelled. Started when the emulated engine, if there is one, listens."""
        node = self._config.node.id
        async with trio.open_nursery() as nursery:
            sections = list(self._config.runtimes)
            if not sections:
                address: RuntimeAddress = await nursery.start(self._run_emulator)
                sections = [RuntimeSection(kind="emulated", url=address.url, slots=address.slots)]
            for replica, section in enumerate(sections):
                adapter = runtime_adapter(section, node, self._log)
                take = partial(self._take, replica, section)
                nursery.start_soon(partial(run_sampler, adapter, take, self._log, rng=self._rng))
            gpus = NvmlAdapter(node, self._log)
            nursery.start_soon(partial(run_gpu_sampler, gpus, self._report_gpu, rng=self._rng))
            task_status.started()

    def _take(self, replica: int, section: RuntimeSection, state: ModelState) -> None:
        if replica:
            state = msgspec.structs.replace(state, replica=replica)
        key = target_key(state.node, state.model, replica)
        if key not in self._latest:
            grpc = section.grpc_url
            address = (grpc.host, grpc.port) if grpc is not None else None
            self._pools.add_runtime(key, _host_and_port(section.url), grpc_address=address)
        self._latest[key] = state
        self._report(state)

    async def _run_emulator(self, *, task_status: trio.TaskStatus[RuntimeAddress]) -> None:
        """Serve the engine; one that crashed (a switched fault) comes back on the same port, as a process would."""
        section = self._config.emulator
        config = EmulatorConfig(
            models=section.models,
            profile=section.profile,
            speed=section.speed,
            host=section.listen.host,
            port=section.listen.port,
        )
        started = False
        while True:
            async with trio.open_nursery() as nursery:
                server: EmulatorServer = await nursery.start(serve_emulator, config)
                if not started:
                    started = True
                    config = replace(config, port=server.address[1])
                    self._log.warning(
                        "emulated_engine",
                        message="no [[runtimes]] are configured: answers come from a cost model, not from a GPU",
                        url=server.url,
                        profile=section.profile,
                        speed=section.speed,
                        models=list(section.models),
                    )
                    task_status.started(RuntimeAddress(server.url, PROFILES[section.profile].slots))
            self._log.warning("emulated_engine_crashed", restart_after_s=_EMULATOR_RESTART_S)
            await trio.sleep(_EMULATOR_RESTART_S)


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80
