"""The process in which libFuzzer runs one target: `python -m fuzz.guided_child TARGET STATUS_FD FLAGS...`.

libFuzzer never gives control back and ends the process itself, so each run has one of its own. The decoders are
imported here, inside atheris' instrumentation; oracles and the target's own file are not instrumented. Each
second the number of executions goes to the status pipe as one line.
"""

from __future__ import annotations

import os
import random
import sys
import time
import warnings
from collections.abc import Callable

import atheris

from fuzz.mutate import mutated
from fuzz.target import MEASURED_EVERY, Target, judge, judge_measured, load_target

_TOLD_EVERY_S = 1.0
_OWN_SHARE = 0.3  # Of the mutations, ours; the rest are libFuzzer's.


def main(arguments: list[str]) -> None:
    name, status_fd, *flags = arguments
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["wire", "infermesh"]):
        target = load_target(name)
    atheris.Setup([name, *flags], judged(target, int(status_fd)), custom_mutator=mutator(target))
    atheris.Fuzz()


def judged(target: Target, status_fd: int) -> Callable[[bytes], None]:
    executions = 0
    told = time.monotonic()

    def judge_one(data: bytes) -> None:
        nonlocal executions, told
        executions += 1
        if executions % MEASURED_EVERY == 0:
            judge_measured(target, data)
        else:
            judge(target, data)
        if time.monotonic() - told >= _TOLD_EVERY_S:
            told = time.monotonic()
            os.write(status_fd, b"%d\n" % executions)

    return judge_one


def mutator(target: Target) -> Callable[[bytes, int, int], bytes]:
    def mutate(data: bytes, bytes_max: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < _OWN_SHARE:
            return mutated(target, data, (), rng)[:bytes_max]
        changed: bytes = atheris.Mutate(data, bytes_max)
        return changed

    return mutate


if __name__ == "__main__":
    main(sys.argv[1:])
