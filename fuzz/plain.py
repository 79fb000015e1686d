"""The engine that runs anywhere: seeded mutations, keeping each input that takes a new branch or has a new label.

Slower and less cunning than `guided`, but the same seed gives the same inputs, and it needs nothing installed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Hashable, Sequence

from fuzz.mutate import mutated
from fuzz.progress import Finding, Progress
from fuzz.target import MEASURED_EVERY, Target, judge, judge_measured
from fuzz.trace import EdgeTrace

_TOLD_EVERY_S = 1.0
_FRESH_SHARE = 0.5  # Of the picks, among the inputs found last: they lead on.
_FRESH_LEN = 16


def run_plain(
    target: Target, inputs: Sequence[bytes], *, seed: int, seconds: float, executions_max: int | None = None
) -> Generator[Progress, None, None]:
    """Runs until `seconds` have passed or `executions_max` is reached; the last progress may carry a finding.

    `inputs` is extended in place when it is a list: what was found is the caller's to keep.
    """
    rng = random.Random(seed)
    corpus = inputs if isinstance(inputs, list) else list(inputs)
    trace = EdgeTrace(target.covers)
    seen: set[Hashable] = set()
    began = told = time.monotonic()
    cpu_began = time.process_time()
    executions = 0

    def progress(finding: Finding | None = None, *, last: bool = False) -> Progress:
        return Progress(
            executions=executions,
            seconds=time.monotonic() - began,
            coverage=len(seen),
            corpus_len=len(corpus),
            cpu_s=time.process_time() - cpu_began,
            last=last,
            finding=finding,
        )

    waiting = list(reversed(corpus))  # First those that are there, then what becomes of them.
    if not corpus:
        corpus.append(b"")
    while time.monotonic() - began < seconds and (executions_max is None or executions < executions_max):
        known = bool(waiting)
        if waiting:
            data = waiting.pop()
        else:
            fresh = rng.random() < _FRESH_SHARE
            parent = rng.choice(corpus[-_FRESH_LEN:] if fresh else corpus)
            data = mutated(target, parent, corpus, rng)
        executions += 1
        try:
            with trace.recording():
                label = judge(target, data)
            if executions % MEASURED_EVERY == 0:
                judge_measured(target, data)
        except Exception as error:  # noqa: BLE001 - whatever a decoder lets out is what we look for.
            yield progress(Finding(data, f"{type(error).__name__}: {error}"), last=True)
            return
        reached: set[Hashable] = {*trace.take(), ("label", label)}
        if not reached <= seen:
            seen |= reached
            if not known:
                corpus.append(data)
        if time.monotonic() - told >= _TOLD_EVERY_S:
            told = time.monotonic()
            yield progress()
    yield progress(last=True)
