"""How a run's answer is said to whoever asked: one writer for each protocol of the asker.

A writer keeps nothing of its own: what it must remember of an answer under way lies in the run. Calls of one answer
come in this order: `interim` any number of times, `begin` once, `payload` for each piece of body, then `end` or
`break_off`. Or `refuse`, alone. The host of the run ends the asker's turn (`Asker.finish`) afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from infermesh.net.asker import Asker
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.upstream import Upstream
from wire.http1 import Field, ResponseHead

if TYPE_CHECKING:
    from infermesh.planes.data.run import Run


class AnswerWriter(Protocol):
    @property
    def protocol(self) -> str:
        """What its askers speak, for records and logs."""

    def status_of(self, up: Upstream, head: ResponseHead) -> int:
        """The answer's status in HTTP's terms: as its head says it, or at its end as its end says it."""

    def interim(self, asker: Asker, head: ResponseHead) -> None:
        """A 1xx head passes."""

    def begin(self, run: Run, up: Upstream, head: ResponseHead, lines: list[bytes]) -> None:
        """Write the head, `lines` added, and have the body follow: untouched, or through `payload`.

        May end the run before it returns: the body may have come with its head.
        """

    def payload(self, run: Run, up: Upstream, payload: bytes) -> None:
        """A piece of the body, free of its framing. Pauses `up` while the asker takes no more."""

    def end(self, run: Run, up: Upstream) -> None:
        """The body came whole."""

    def break_off(self, run: Run, up: Upstream, head: ResponseHead) -> None:
        """It did not, see `run.failure`: say so where that can be said, and never end cleanly."""

    def refuse(self, asker: Asker, refused: RequestRefused, method: bytes, fields: Sequence[Field] = ()) -> None:
        """Answer with an error, whole. Ends the asker's turn."""
