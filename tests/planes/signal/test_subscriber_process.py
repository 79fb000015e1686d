"""A whole GPU node's mesh port in a process of its own, killed for real."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from infermesh.core.model.names import NodeId
from infermesh.core.model.nodes import Address, NodeRecord, NodeState, Role
from infermesh.core.model.state import GpuState, ModelState
from infermesh.net.peer_tls import PeerTls
from infermesh.net.tls import HTTP2_ALPN
from infermesh.planes.signal.mesh_dialer import MeshDialer
from infermesh.planes.signal.subscriber import run_subscriber
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.reactors import running_reactor
from infermesh.testing.recorded_log import RecordedLog
from infermesh.testing.waiting import wait_until

PROGRAM = """
import sys
import trio
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.trust import Identity
from infermesh.net.tls import TlsEpoch
from infermesh.planes.signal.publisher import Publisher
from infermesh.planes.signal.state_service import StateService
from infermesh.testing.grpc_node import NodeShape, grpc_node
from infermesh.testing.recorded_log import RecordedLog

folder, ca_file, port = sys.argv[1:]
identity = Identity(node="gpu-a", trust_domain="test.mesh", spiffe_id="", certificate_file=f"{folder}/node.pem",
                    key_file=f"{folder}/node.key", ca_file=ca_file, not_before=0.0, not_after=0.0)

async def main():
    publisher = Publisher(RecordedLog())
    publisher.report(ModelState(node="gpu-a", model="m", runtime="fake", incarnation=1, sequence=1, source_time=0.0,
                                lifecycle=Lifecycle.READY))
    service = StateService("gpu-a", publisher, report=print, report_gpu=print, refused=print)
    async with grpc_node([service], NodeShape(epoch=TlsEpoch(identity)), at=("127.0.0.1", int(port))) as node:
        print(node.address[1], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


class _Report:
    """Turns what is told into events that a test can wait for."""

    def __init__(self) -> None:
        self.alive_now = trio.Event()
        self.dead_now = trio.Event()
        self.states: list[ModelState] = []
        self.reasons: list[str] = []

    def model_state(self, state: ModelState) -> None:
        self.states.append(state)

    def gpu_state(self, state: GpuState) -> None: ...

    def alive(self, node: NodeId, rtt_s: float, *, new_stream: bool) -> None:
        self.alive_now.set()
        self.dead_now = trio.Event()

    def suspect(self, node: NodeId, reason: str) -> None: ...

    def dead(self, node: NodeId, reason: str) -> None:
        self.reasons.append(reason)
        self.dead_now.set()
        self.alive_now = trio.Event()

    def refused(self, node: NodeId, reason: str) -> None: ...


@contextmanager
def _process(domain: TrustDomain, port: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    files = domain.node("gpu-a")
    command = [sys.executable, "-c", PROGRAM, str(files.folder), str(files.ca_file), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@asynccontextmanager
async def _following(domain: TrustDomain, port: int, report: _Report) -> AsyncIterator[None]:
    epoch, node = domain.epoch("router"), NodeId("gpu-a")
    record = NodeRecord(
        node=node,
        mesh_address=Address("127.0.0.1", port),
        roles=frozenset({Role.GPU}),
        zone="",
        state=NodeState.JOINING,
        since=0.0,
    )
    async with running_reactor() as running, trio.open_nursery() as nursery:
        secure = PeerTls(node, lambda: epoch, lambda peer, why: None, alpn=HTTP2_ALPN)
        dialer = MeshDialer(record, running.reactor, running.timers, secure)
        nursery.start_soon(partial(run_subscriber, node, dialer, report, RecordedLog(), rng=random.Random(1)))
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_gpu_node_killed_with_sigkill_is_known_dead_within_a_second_and_found_again(tmp_path: Path) -> None:
    domain = TrustDomain(tmp_path)
    report = _Report()
    with _process(domain, 0) as (process, port):
        async with _following(domain, port, report):
            with trio.fail_after(10):
                await report.alive_now.wait()
            process.send_signal(signal.SIGKILL)
            killed_at = trio.current_time()
            with trio.fail_after(10):
                await report.dead_now.wait()
            known_after_s = trio.current_time() - killed_at
            assert known_after_s < 1.0
            assert "refused" in report.reasons[0]
            assert len(report.states) == 1
            with _process(domain, port), trio.fail_after(10):
                await report.alive_now.wait()
                await wait_until(lambda: len(report.states) == 2, "its state is told again")


@pytest.mark.slow
async def test_a_gpu_node_that_is_stopped_but_not_gone_is_suspected_and_then_dead(tmp_path: Path) -> None:
    domain = TrustDomain(tmp_path)
    report = _Report()
    with _process(domain, 0) as (process, port):
        async with _following(domain, port, report):
            with trio.fail_after(10):
                await report.alive_now.wait()
            process.send_signal(signal.SIGSTOP)
            stopped_at = trio.current_time()
            with trio.fail_after(10):
                await report.dead_now.wait()
            assert 2.4 < trio.current_time() - stopped_at < 5.0
            assert report.reasons[0].startswith("no state for 3.0 s")
            process.send_signal(signal.SIGCONT)
            with trio.fail_after(10):
                await report.alive_now.wait()
                await wait_until(lambda: len(report.states) == 2, "after a death everything is told again")
