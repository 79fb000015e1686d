"""Who waits at the gate and is told: a defect in one of them stays with that one."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock

from infermesh.core.model.names import ModelName
from infermesh.core.routing.admission import Admission, AdmissionConfig, Arrival
from infermesh.core.routing.effects import Admit, Refuse
from infermesh.net.timers import Timers
from infermesh.planes.data.gate import Gate

MODEL = ModelName("m")


class Asker:
    def __init__(self, *, broken: bool = False) -> None:
        self.told: list[Admit | Refuse] = []
        self.given_up = False
        self._broken = broken

    def on_admission(self, effect: Admit | Refuse) -> None:
        if self._broken:
            raise ZeroDivisionError("a defect")
        self.told.append(effect)

    def give_up(self) -> None:
        self.given_up = True


def gate_of(slots: int, crashes: list[Exception]) -> Gate:
    gate = Gate(Admission(AdmissionConfig(), random.Random(0)), Timers(on_crash=crashes.append))
    gate.set_capacity(MODEL, slots)
    return gate


async def test_a_defect_in_one_that_waited_reaches_neither_the_next_nor_whoever_made_room(
    autojump_clock: MockClock,
) -> None:
    crashes: list[Exception] = []
    gate = gate_of(1, crashes)
    assert gate.arrive(Arrival(ticket=1, model=MODEL), Asker()) == Admit(1)
    broken, next_one = Asker(broken=True), Asker()
    for ticket, asker in ((2, broken), (3, next_one)):
        assert gate.arrive(Arrival(ticket=ticket, model=MODEL), asker) is None
    gate.set_capacity(MODEL, 3)
    assert next_one.told == [Admit(3)]
    assert broken.given_up
    assert [type(error) for error in crashes] == [ZeroDivisionError]


async def test_one_that_left_is_told_nothing_and_its_place_goes_to_the_next(autojump_clock: MockClock) -> None:
    gate = gate_of(1, [])
    gate.arrive(Arrival(ticket=1, model=MODEL), Asker())
    gone, next_one = Asker(), Asker()
    gate.arrive(Arrival(ticket=2, model=MODEL), gone)
    gate.arrive(Arrival(ticket=3, model=MODEL), next_one)
    gate.go(2)
    gate.leave(1)
    assert (gone.told, next_one.told) == ([], [Admit(3)])
    gate.leave(3)
    assert gate.inflight(MODEL) == gate.queue_len(MODEL) == 0
    await trio.lowlevel.checkpoint()
