"""An adapter in a process of its own, so to speak, and the meshd of its node: a whole mesh is there to see the news."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.net.tls import TlsEpoch
from infermesh.planes.signal.publisher import Publisher
from infermesh.planes.signal.report_client import ReportClient, ReportConfig, reporting
from infermesh.planes.signal.state_service import StateService
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.grpc_node import GrpcNode, NodeShape, grpc_node
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import MeshPlan
from infermesh.testing.recorded_log import RecordedLog
from infermesh.testing.waiting import wait_until

ME = NodeId("gpu-a")
QUICK = ReportConfig(backoff_first_s=0.02, backoff_longest_s=0.05)
STATE = ModelState(
    node=ME,
    model=ModelName("outside-1b"),
    runtime="other",
    incarnation=1,
    sequence=1,
    source_time=0.0,
    lifecycle=Lifecycle.READY,
    slots=4,
    replica=7,
)
GPU = GpuState(
    node=ME,
    gpu_uuid="GPU-outside",
    sequence=1,
    source_time=0.0,
    name="Fake",
    health=GpuHealth.HEALTHY,
    sm_utilization=0.0,
    memory_used_bytes=0,
    memory_total_bytes=0,
    temperature_c=0.0,
    power_w=0.0,
)


def _state(sequence: int, model: str = "outside-1b") -> ModelState:
    return msgspec.structs.replace(STATE, sequence=sequence, model=ModelName(model))


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    return TrustDomain(tmp_path_factory.mktemp("trust"))


class _Node:
    """A mesh port in small, and what was reported to it."""

    def __init__(self) -> None:
        self.states: list[tuple[str, int]] = []
        self.gpus: list[GpuState] = []
        self.refused: list[str] = []
        self.served: GrpcNode

    def on_state(self, state: ModelState) -> None:
        self.states.append((state.model, state.sequence))


@asynccontextmanager
async def _node(epoch: TlsEpoch, *, at: tuple[str, int] = ("127.0.0.1", 0)) -> AsyncIterator[_Node]:
    node = _Node()
    service = StateService(
        ME,
        Publisher(RecordedLog()),
        report=node.on_state,
        report_gpu=node.gpus.append,
        refused=node.refused.append,
    )
    with trio.fail_after(10):
        async with grpc_node([service], NodeShape(epoch=epoch), at=at) as node.served:
            yield node
            await wait_until(lambda: not node.served.connections, "the adapter is gone")


@asynccontextmanager
async def _adapter(
    address: tuple[str, int], epoch: TlsEpoch, log: RecordedLog, config: ReportConfig = QUICK
) -> AsyncIterator[ReportClient]:
    async with reporting(address, epoch, log, rng=random.Random(1), config=config) as reports:
        yield reports


async def _acknowledged(reports: ReportClient) -> None:
    await wait_until(lambda: not reports.unacknowledged, "everything is acknowledged")


async def test_reports_are_taken_over_and_acknowledged(trust: TrustDomain) -> None:
    log, epoch = RecordedLog(), trust.epoch("gpu-a")
    async with _node(epoch) as node, _adapter(node.served.address, epoch, log) as reports:
        reports.report(_state(1))
        reports.report(_state(1, "other"))
        reports.report_gpu(GPU)
        assert reports.unacknowledged == 3
        await _acknowledged(reports)
        assert node.states == [("outside-1b", 1), ("other", 1)]
        assert node.gpus == [GPU]
        reports.report(_state(2))
        await _acknowledged(reports)
        assert node.states[2:] == [("outside-1b", 2)]
        assert log.events == []


async def test_only_the_newest_of_what_was_not_sent_is_sent(trust: TrustDomain) -> None:
    log, epoch = RecordedLog(), trust.epoch("gpu-a")
    async with _node(epoch) as node, _adapter(node.served.address, epoch, log) as reports:
        for sequence in range(1, 100):
            reports.report(_state(sequence))
        await _acknowledged(reports)
        assert node.states == [("outside-1b", 99)]


async def test_after_the_node_has_died_everything_newest_is_told_to_the_next(trust: TrustDomain) -> None:
    log, epoch = RecordedLog(), trust.epoch("gpu-a")
    async with trio.open_nursery() as nursery:
        first, second = _Life(), _Life()
        nursery.start_soon(first.run, epoch, ("127.0.0.1", 0))
        await first.up.wait()
        address = first.node.served.address
        async with _adapter(address, epoch, log) as reports:
            reports.report(_state(1))
            reports.report(_state(5, "other"))
            await _acknowledged(reports)
            first.scope.cancel()
            await wait_until(lambda: "report_stream_broken" in log.names(), "it is noticed")
            reports.report(_state(2))
            assert reports.unacknowledged >= 1
            nursery.start_soon(second.run, epoch, address)
            await second.up.wait()
            await wait_until(lambda: len(second.node.states) == 2, "both are told again")
            await _acknowledged(reports)
            assert sorted(second.node.states) == [("other", 5), ("outside-1b", 2)]
        second.scope.cancel()


class _Life:
    """One life of a node, ended as SIGKILL would."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.up = trio.Event()
        self.node: _Node

    async def run(self, epoch: TlsEpoch, at: tuple[str, int]) -> None:
        with self.scope:
            async with _node(epoch, at=at) as self.node:
                self.up.set()
                await trio.sleep_forever()


async def test_a_state_that_the_node_calls_malformed_is_dropped_and_the_others_go_on(trust: TrustDomain) -> None:
    log, epoch = RecordedLog(), trust.epoch("gpu-a")
    async with _node(epoch) as node, _adapter(node.served.address, epoch, log) as reports:
        reports.report(_state(1, "first"))
        reports.report(msgspec.structs.replace(_state(1, "broken"), kv_usage=math.nan))
        reports.report(_state(1, "last"))
        await _acknowledged(reports)
        assert {"first", "last"} == {model for model, _ in node.states}
        assert node.refused == ["malformed"]
        [dropped] = log.fields_of("report_dropped")
        assert "kv_usage is nan" in str(dropped["detail"])
        reports.report(_state(2, "broken"))
        await _acknowledged(reports)
        assert node.states[-1] == ("broken", 2)


async def test_an_adapter_of_another_node_is_told_so_and_tries_on(trust: TrustDomain) -> None:
    log = RecordedLog()
    config = msgspec.structs.replace(QUICK, backoff_first_s=0.01)
    async with _node(trust.epoch("gpu-b")) as node:
        async with _adapter(node.served.address, trust.epoch("gpu-a"), log, config) as reports:
            reports.report(_state(1))
            await wait_until(lambda: len(log.fields_of("report_handshake_failed")) >= 2, "it tries again")
        assert len(log.fields_of("report_stream_broken")) == 1
        assert node.states == []


async def test_nothing_is_dialled_before_there_is_something_to_say(trust: TrustDomain) -> None:
    log, epoch = RecordedLog(), trust.epoch("gpu-a")
    async with _node(epoch) as node, _adapter(node.served.address, epoch, log) as reports:
        await trio.testing.wait_all_tasks_blocked()
        assert node.served.connections == []
        reports.report_gpu(GPU)
        await _acknowledged(reports)


async def test_models_above_the_limit_push_out_the_one_not_reported_for_the_longest_time(trust: TrustDomain) -> None:
    log, epoch = RecordedLog(), trust.epoch("gpu-a")
    config = msgspec.structs.replace(QUICK, entries_max=2)
    async with _node(epoch) as node, _adapter(node.served.address, epoch, log, config) as reports:
        for model in ("a", "b", "a", "c"):
            reports.report(_state(1, model))
        await _acknowledged(reports)
        assert sorted(model for model, _ in node.states) == ["a", "c"]


async def test_hundreds_of_states_at_once_wait_for_their_acknowledgements(trust: TrustDomain) -> None:
    log, epoch = RecordedLog(), trust.epoch("gpu-a")
    async with _node(epoch) as node, _adapter(node.served.address, epoch, log) as reports:
        for number in range(1000):
            reports.report(_state(1, f"m{number}"))
        await _acknowledged(reports)
        assert len(node.states) == 1000


# --- against a whole node ---


def _seen(mesh: Mesh) -> list[int]:
    """The sequences of the model from outside, as the router sees them."""
    targets = mesh.router.node.sources.view().targets.values()
    return [target.state.sequence for target in targets if target.model == "outside-1b"]


async def test_what_is_reported_to_a_node_reaches_the_routers_and_survives_its_restart(trust: TrustDomain) -> None:
    log, epoch = RecordedLog(), trust.epoch("gpu-a")
    async with running_mesh(MeshPlan(bystander=None), trust=trust) as mesh:
        gpu = mesh.gpus[0]
        async with _adapter(gpu.mesh_address, epoch, log) as reports:
            reports.report(_state(3))
            reports.report_gpu(GPU)
            await wait_until(lambda: _seen(mesh) == [3], "the router has it")
            await gpu.kill()
            await mesh.wait_out(0)
            await gpu.start()
            await mesh.wait_ready()
            await _acknowledged(reports)
            reports.report(_state(4))
            await wait_until(lambda: _seen(mesh) == [4], "the router has the next")
        await wait_until(lambda: gpu.node.holdings().accepted["mesh"] <= 2, "the adapter is gone")
