"""The control loop: the one task that owns the kernel.

Request tasks, state streams and samplers post into its mailboxes; it feeds the kernel, publishes each new view
to those who asked, and turns the kernel's events into log lines. Deltas and outcomes arrive far more often than
anybody needs a new view, so views are at least `VIEW_EVERY_S` apart, except that a node's death or return is
published at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, assert_never

import msgspec
import trio

from infermesh.core.kernel import Kernel, KernelEvent
from infermesh.core.model.names import NodeId
from infermesh.core.model.nodes import NodeState
from infermesh.core.model.outcome import Outcome
from infermesh.core.model.state import GpuState, ModelState
from infermesh.core.model.targets import RoutingView
from infermesh.net.mailbox import Mailbox

VIEW_EVERY_S: Final = 0.01
_MESSAGES_MAX: Final = 65_536


class NodeHeard(msgspec.Struct, frozen=True):
    """A node's liveness as its state stream shows it."""

    node: NodeId
    state: NodeState
    reason: str = ""
    rtt_s: float | None = None
    new_stream: bool = False  # Its reporting meshd may have restarted: sequences may begin anew.


Message = ModelState | GpuState | Outcome | NodeHeard


class ControlLoop:
    def __init__(
        self,
        kernel: Kernel,
        *,
        publish: Callable[[RoutingView], None],
        report: Callable[[KernelEvent], None],
    ) -> None:
        self._kernel = kernel
        self._publish = publish
        self._report = report
        self._mailbox: Mailbox[Message] = Mailbox(_MESSAGES_MAX)
        self._published = 0
        self.view = kernel.view(0.0)

    @property
    def dropped(self) -> int:
        """Messages that were lost to a full mailbox."""
        return self._mailbox.dropped

    @property
    def drops(self) -> dict[str, int]:
        """Reports that were not taken over, by reason."""
        return self._kernel.drops

    def post(self, message: Message) -> None:
        """From any task of this process; never waits."""
        self._mailbox.put(message)

    async def run(self) -> None:
        kernel = self._kernel
        while True:
            with trio.move_on_at(kernel.wake_at):
                await self._mailbox.wait_any()
            now = trio.current_time()
            urgent = False
            for message in self._mailbox.take_all():
                urgent |= self._feed(message, now)
            if now >= kernel.wake_at:
                kernel.on_wake(now)
            self._publish_view(now)
            if not urgent:
                # Whatever arrives meanwhile shares the next view.
                await trio.sleep(VIEW_EVERY_S)

    def _feed(self, message: Message, now: float) -> bool:
        """Returns whether what follows should not wait."""
        match message:
            case Outcome():
                self._kernel.on_outcome(message, now)
            case ModelState():
                self._kernel.on_model_state(message, now)
            case GpuState():
                self._kernel.on_gpu_state(message, now)
            case NodeHeard(node, state, reason, rtt_s, new_stream):
                if new_stream:
                    self._kernel.on_stream_start(node, now)
                self._kernel.on_node_state(node, state, now, reason=reason, rtt_s=rtt_s)
                return state is not NodeState.SUSPECT
            case _:
                assert_never(message)
        return False

    def _publish_view(self, now: float) -> None:
        for event in self._kernel.take_events():
            self._report(event)
        view = self._kernel.view(now)
        if view.version != self._published or self._published == 0:
            self._published = view.version
            self.view = view
            self._publish(view)
