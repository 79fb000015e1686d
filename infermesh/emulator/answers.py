"""Answers under way: what the engine's task calls for each token, and what becomes of it on the wire.

`UnaryAnswer` waits for the end. `StreamAnswer` sends an event per token, and carries the stream faults. Neither
waits; the connection's task watches the client and looks at `done` and `ending`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from infermesh.emulator.client import ClientSocket
from infermesh.emulator.faults import RequestFaults
from infermesh.emulator.prompts import numbered_token
from infermesh.emulator.shapes import StreamShape


class Ending(enum.Enum):
    WHOLE = enum.auto()
    RESET = enum.auto()
    TRUNCATED = enum.auto()
    CRASH = enum.auto()


class UnaryAnswer:
    __slots__ = ("_client", "done")

    def __init__(self, client: ClientSocket) -> None:
        self._client = client
        self.done = False

    def on_token(self, index: int) -> None:
        """Nothing is sent before the end."""

    def on_finished(self) -> None:
        self.done = True
        self._client.wake()


class StreamAnswer:
    """`lead` goes out with the first token. `usage` is prompt and completion tokens of the whole."""

    __slots__ = (
        "_client",
        "_cut",
        "_end_of_message",
        "_faults",
        "_finish_reason",
        "_held",
        "_lead",
        "_shape",
        "_silent",
        "_tag",
        "_usage",
        "done",
        "ending",
    )

    def __init__(
        self,
        client: ClientSocket,
        shape: StreamShape,
        faults: RequestFaults,
        *,
        lead: bytes,
        tag: bytes,
        finish_reason: str,
        usage: tuple[int, int],
        end_of_message: Callable[[], bytes],
    ) -> None:
        self._client = client
        self._shape = shape
        self._faults = faults
        self._cut = faults.cut_after_tokens()
        self._lead = lead + shape.opening
        self._tag = tag
        self._finish_reason = finish_reason
        self._usage = usage
        self._end_of_message = end_of_message
        self._held: bytearray | None = None
        self._silent = False
        self.done = False
        self.ending = Ending.WHOLE

    def hold(self) -> None:
        """Keep what comes until `release`: a fault is delaying the head before it."""
        self._held = bytearray()

    def release(self) -> None:
        held, self._held = self._held, None
        if held:
            self._client.send_now(bytes(held))

    def on_token(self, index: int) -> None:
        if self._cut is not None and index >= self._cut:
            self._strike()
            return
        data = self._shape.token(numbered_token(index) if index else self._tag)
        if not index:
            data = self._lead + data
        if self._held is None:
            self._client.send_now(data)
        else:
            self._held += data

    def on_finished(self) -> None:
        index = self._usage[1] - 1
        if self._cut is not None and index >= self._cut:
            self._strike()
            return
        text = numbered_token(index) if index else self._tag
        data = self._shape.ending(text, self._finish_reason, *self._usage) + self._end_of_message()
        if not index:
            data = self._lead + data
        if self._held is None:
            self._client.send_now(data)
        else:
            self._held += data
        self.done = True
        self._client.wake()

    def _strike(self) -> None:
        """The stream fault whose token count is reached: the most violent one if several are."""
        if self._silent or self.done:
            return
        cut, faults = self._cut, self._faults
        if faults.crash_after_tokens == cut:
            self.ending = Ending.CRASH
        elif faults.reset_after_tokens == cut:
            self.ending = Ending.RESET
        elif faults.truncate_after_tokens == cut:
            self.ending = Ending.TRUNCATED
        else:
            self._silent = True
            return
        self.done = True
        self._client.wake()
