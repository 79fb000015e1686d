"""What admission costs a request: while there is room, and while the queue is full.

Run by hand: `python tests/bench/admission_bench.py`. The budget is 3 us for an arrival that finds room.
"""

from __future__ import annotations

import random
import time
from collections import deque

from infermesh.core.model.names import ModelName
from infermesh.core.model.request import Priority
from infermesh.core.routing.admission import Admission, AdmissionConfig, Arrival
from infermesh.core.routing.effects import Admit

MODEL = ModelName("m")
REQUESTS = 100_000


def _arrivals(count: int, tenants: int) -> list[Arrival]:
    return [
        Arrival(
            ticket=ticket,
            model=MODEL,
            priority=Priority(1 + ticket % 3),
            tenant=str(ticket % tenants),
            deadline=1e5 + ticket % 7,
            predicted_ttft_ms=80.0,
            work_ms=900.0,
        )
        for ticket in range(count)
    ]


def measure_room() -> None:
    admission = Admission(AdmissionConfig(), random.Random(1))
    admission.set_capacity(MODEL, 2 * REQUESTS, now=0.0)
    arrivals = _arrivals(REQUESTS, 10)
    began = time.perf_counter()
    for arrival in arrivals:
        admission.on_arrival(arrival, 0.0)
    arrived = time.perf_counter()
    for ticket in range(REQUESTS):
        admission.on_departure(ticket, 0.5)
    departed = time.perf_counter()
    print(
        f"room: {(arrived - began) / REQUESTS * 1e6:.2f} us an arrival, "
        f"{(departed - arrived) / REQUESTS * 1e6:.2f} us a departure"
    )


def measure_full(tenants: int) -> None:
    config = AdmissionConfig(queue_wait_max_s=1e6, retry_after_max_s=1e6)
    admission = Admission(config, random.Random(1))
    admission.set_capacity(MODEL, 100, now=0.0)
    arrivals = _arrivals(100 + config.queue_len_max + 5000, tenants)
    queued, refused = arrivals[: 100 + config.queue_len_max], arrivals[100 + config.queue_len_max :]
    began = time.perf_counter()
    for arrival in queued:
        admission.on_arrival(arrival, 0.0)
    filled = time.perf_counter()
    for arrival in refused:
        admission.on_arrival(arrival, 1.0)
    full = time.perf_counter()
    running, moved = deque(range(100)), 0
    while running and moved < 900:
        moved += 1
        for effect in admission.on_departure(running.popleft(), 2.0):
            if isinstance(effect, Admit):
                running.append(effect.ticket)
    drained = time.perf_counter()
    print(
        f"queue of {config.queue_len_max}, {tenants} tenants: {(filled - began) / len(queued) * 1e6:.1f} us to wait, "
        f"{(full - filled) / len(refused) * 1e6:.1f} us to refuse or shed, "
        f"{(drained - full) / moved * 1e6:.1f} us a departure that admits"
    )


if __name__ == "__main__":
    measure_room()
    for count in (1, 20, 1000):
        measure_full(count)
