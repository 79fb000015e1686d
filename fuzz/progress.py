"""What an engine tells while it runs. Values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    data: bytes
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    executions: int
    seconds: float
    coverage: int  # Branches, as the engine counts them: figures of two engines do not compare.
    corpus_len: int
    cpu_s: float = 0.0  # Of the process that ran the inputs; known in the last one. At low priority, far below seconds.
    last: bool = False
    finding: Finding | None = None  # Only in the last one.

    def __str__(self) -> str:
        rate = self.executions / self.seconds if self.seconds else 0.0
        return (
            f"{self.seconds:6.0f} s  {self.executions:>10,} executions  {rate:>7,.0f}/s  "
            f"coverage {self.coverage:,}  corpus {self.corpus_len:,}"
        )
