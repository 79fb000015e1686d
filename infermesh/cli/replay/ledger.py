"""The books of a replay: every arrival ends in exactly one way, and figures come only from books that add up.

Pure. The driver opens a passage for each arrival and settles it once; `check` is called before anything is shown.
"""

from __future__ import annotations

import enum
from array import array
from collections import Counter

import msgspec


class Status(enum.StrEnum):
    COMPLETED = "completed"
    REJECTED = "rejected"  # 429 or 503: the server said no, as it may.
    FAILED = "failed"  # The server or the network broke it.
    CANCELLED = "cancelled"  # This client left, because the plan or the person said so.
    CLIENT_ERROR = "client_error"  # Wrongly asked (4xx), or this machine could not send.


class ConservationError(Exception):
    """The books do not add up: figures made of them would be wrong. A defect of this program."""


class Passage(msgspec.Struct, kw_only=True):
    """What became of one arrival. Times are seconds; TTFT and total count from the intended moment of sending."""

    number: int
    at_s: float
    prompt_tokens: int
    status: Status | None = None  # None: under way.
    cause: str = ""  # A word to count by: "http 429", "broken", "EMFILE".
    detail: str = ""
    send_lag_s: float = 0.0  # Sent so much later than intended.
    ttft_s: float | None = None
    total_s: float = 0.0
    tokens: int = 0
    flowing: bool = False  # Its first token had come.
    node: str = ""  # x-infermesh-node, where the server says it.
    attempts: int = 0
    request_id: str = ""
    retry_after_s: float | None = None
    mean_gap_s: float = 0.0  # Between tokens; 0.0 of an answer with one.


class Ledger:
    """One replay's passages. Written by the driver only."""

    def __init__(self) -> None:
        self.passages: list[Passage] = []
        self.settled: Counter[Status] = Counter()
        self.forgotten: Counter[Status] = Counter()  # Settled ones that are no more than counted.
        self.gaps_s: array[float] = array("f")  # Every gap between two tokens of completed answers.
        self.first_tokens_s: array[float] = array("f")  # In the order they came: for progress.
        self.ended_s = 0.0

    @property
    def arrived(self) -> int:
        return len(self.passages) + self.forgotten.total()

    @property
    def in_flight(self) -> int:
        return self.arrived - self.settled.total()

    def open(self, *, number: int, at_s: float, prompt_tokens: int) -> Passage:
        passage = Passage(number=number, at_s=at_s, prompt_tokens=prompt_tokens)
        self.passages.append(passage)
        return passage

    def settle(self, passage: Passage, status: Status, *, at_s: float, cause: str = "", detail: str = "") -> None:
        assert passage.status is None, f"arrival {passage.number} settled twice: {passage.status}, {status}"
        passage.status = status
        passage.cause = cause
        passage.detail = detail
        passage.total_s = at_s - passage.at_s
        self.settled[status] += 1
        self.ended_s = max(self.ended_s, at_s)

    def first_token(self, passage: Passage, ttft_s: float) -> None:
        passage.ttft_s = ttft_s
        self.first_tokens_s.append(ttft_s)

    def forget(self, *, keep: int) -> None:
        """Keep about the last `keep` passages and as many first tokens and gaps; of others, only how they ended."""
        old = self.passages[: max(0, len(self.passages) - keep)]
        self.forgotten.update(passage.status for passage in old if passage.status is not None)
        self.passages = [passage for passage in old if passage.status is None] + self.passages[len(old) :]
        del self.first_tokens_s[: max(0, len(self.first_tokens_s) - keep)]
        del self.gaps_s[: max(0, len(self.gaps_s) - keep)]

    def of(self, status: Status) -> list[Passage]:
        return [passage for passage in self.passages if passage.status is status]

    def check(self, *, sent: int) -> None:
        """`sent`: arrivals of the plan whose moment came. Raises ConservationError."""
        counted: Counter[Status | None] = Counter(passage.status for passage in self.passages)
        for status, count in self.forgotten.items():
            counted[status] += count
        numbers = {passage.number for passage in self.passages}
        faults = []
        if self.arrived != sent:
            faults.append(f"{sent} were due and {self.arrived} are in the books")
        if len(numbers) != len(self.passages):
            faults.append(f"{len(self.passages) - len(numbers)} are in the books twice")
        if counted[None]:
            faults.append(f"{counted[None]} never ended")
        if any(counted[status] != self.settled[status] for status in Status):
            faults.append(f"counted {dict(counted)} and recounted {dict(self.settled)}")
        late = [passage.number for passage in self.passages if passage.ttft_s is not None and passage.ttft_s < 0.0]
        if late:
            faults.append(f"{len(late)} were answered before they were sent")
        if faults:
            raise ConservationError("the requests do not add up: " + "; ".join(faults))
