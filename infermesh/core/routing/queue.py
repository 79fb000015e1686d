"""The waiting line of one model: who is next, who is ahead of whom, and who must give way when it is full.

Pure, and the order only: no capacity, no rate, no clock of its own. The order, from outside in:

1. **Class.** A lower `Priority` goes first, always, but for the guard in 4.
2. **Tenant**, inside a class: the one that was served the least work so far, measured in `work_ms` and not in
   requests, so that ten long prompts weigh as much as a hundred short ones. This is deficit round robin with
   exact quanta (a tenant's `served_ms` is its deficit with the sign turned). A tenant that comes back from
   idleness starts level with the least served one: it saves nothing up and it sheds no debt.
3. **Start by**, inside a tenant: the earliest `start_by` (deadline less predicted time to first byte) first,
   which meets every deadline that can be met. Equal ones go in order of arrival. Deadlines order a tenant's own
   requests only: across tenants they would let whoever states the shortest deadline take the line.
4. **Starvation guard**, across all of it: of `aging_every` admissions, one goes to the oldest waiter if that has
   waited `aging_after_s`. So an overdue waiter with r older ones before it is admitted within
   (r + 1) * aging_every admissions of its model, if it does not leave or expire before.

Sorted lists with bisection, not heaps: a waiter may leave from the middle, and at the length limit (1,024) an
insertion is one move of 8 KiB, while a heap would need a second book about its dead entries.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict

from infermesh.core.model.request import Priority
from infermesh.core.routing.arrival import Arrival, Waiter

_DEBTS_MAX = 1024  # Tenants remembered per class while they are not waiting.

_Timed = list[tuple[float, int, Waiter]]  # (start_by, number, waiter), ascending; the number is unique.


class _TenantLine:
    """One tenant inside one class; exists only while it has a waiter."""

    __slots__ = ("by_arrival", "by_start", "joined", "name", "served_ms", "work_ms")

    def __init__(self, name: str, joined: int, served_ms: float) -> None:
        self.name = name
        self.joined = joined
        self.served_ms = served_ms
        self.work_ms = 0.0
        self.by_start: _Timed = []
        self.by_arrival: OrderedDict[int, Waiter] = OrderedDict()

    def work_before_ms(self, start_by: float) -> float:
        """Work that a newcomer with that `start_by` would find before itself."""
        if not self.by_start or start_by >= self.by_start[-1][0]:
            return self.work_ms
        end = bisect_left(self.by_start, (start_by, 1 << 62))
        return sum(entry[2].work_ms for entry in self.by_start[:end])


class _ClassLine:
    """One priority class: its tenants, in the order in which they are served."""

    __slots__ = ("_debts", "_level_ms", "_turns", "tenants", "work_ms")

    def __init__(self) -> None:
        self.tenants: dict[str, _TenantLine] = {}
        self.work_ms = 0.0
        self._turns: list[tuple[float, int, _TenantLine]] = []  # (served_ms, joined, tenant), ascending.
        self._level_ms = 0.0  # What the least served waiting tenant has had; never falls while anyone waits.
        self._debts: dict[str, float] = {}  # Tenants that had more than the level when they left.

    def push(self, waiter: Waiter) -> None:
        name = waiter.arrival.tenant
        tenant = self.tenants.get(name)
        if tenant is None:
            served_ms = max(self._debts.pop(name, 0.0), self._level_ms)
            tenant = self.tenants[name] = _TenantLine(name, waiter.number, served_ms)
            insort(self._turns, (tenant.served_ms, tenant.joined, tenant))
        insort(tenant.by_start, (waiter.start_by, waiter.number, waiter))
        tenant.by_arrival[waiter.number] = waiter
        tenant.work_ms += waiter.work_ms
        self.work_ms += waiter.work_ms

    def first(self) -> Waiter:
        return self._turns[0][2].by_start[0][2]

    def charge(self, waiter: Waiter) -> None:
        """The waiter is about to be admitted: its tenant has had that much more."""
        tenant = self.tenants[waiter.arrival.tenant]
        self._level_ms = max(self._level_ms, self._turns[0][0])
        self._leave_turn(tenant)
        tenant.served_ms += waiter.work_ms
        insort(self._turns, (tenant.served_ms, tenant.joined, tenant))

    def remove(self, waiter: Waiter) -> None:
        tenant = self.tenants[waiter.arrival.tenant]
        del tenant.by_start[bisect_left(tenant.by_start, (waiter.start_by, waiter.number))]
        del tenant.by_arrival[waiter.number]
        tenant.work_ms -= waiter.work_ms
        self.work_ms -= waiter.work_ms
        if tenant.by_arrival:
            return
        self._leave_turn(tenant)
        del self.tenants[tenant.name]
        if not self.tenants:
            # Nobody competes any more: old debts would punish a tenant for having used an idle fleet. The
            # sum starts anew too, so that rounding errors cannot pile up.
            self._debts.clear()
            self._level_ms = self.work_ms = 0.0
        elif tenant.served_ms > self._level_ms:
            self._remember(tenant)

    def work_ahead_ms(self, waiter: Waiter) -> float:
        """Work of this class that goes before the newcomer; see `WaitingLine.work_ahead_ms`."""
        tenant = self.tenants.get(waiter.arrival.tenant)
        own_ms = 0.0 if tenant is None else tenant.work_before_ms(waiter.start_by)
        others_ms = self.work_ms - (0.0 if tenant is None else tenant.work_ms)
        rivals = len(self.tenants) - (0 if tenant is None else 1)
        # While this tenant is served its own share up to the newcomer, each rival is served as much at most.
        return own_ms + min(others_ms, rivals * (own_ms + waiter.work_ms))

    def heaviest(self) -> _TenantLine:
        return max(self.tenants.values(), key=lambda tenant: (tenant.work_ms, tenant.joined))

    def _leave_turn(self, tenant: _TenantLine) -> None:
        del self._turns[bisect_left(self._turns, (tenant.served_ms, tenant.joined))]

    def _remember(self, tenant: _TenantLine) -> None:
        self._debts[tenant.name] = tenant.served_ms
        if len(self._debts) <= _DEBTS_MAX:
            return
        level_ms = self._level_ms
        self._debts = {name: served for name, served in self._debts.items() if served > level_ms}
        while len(self._debts) > _DEBTS_MAX:
            del self._debts[next(iter(self._debts))]  # The longest absent is the least likely to be back.


class WaitingLine:
    """All waiters of one model. Every operation is logarithmic, or one short move of memory."""

    __slots__ = ("_aging_after_s", "_aging_every", "_by_arrival", "_by_start", "_classes", "_since_aged")

    def __init__(self, *, aging_after_s: float, aging_every: int) -> None:
        self._aging_after_s = aging_after_s
        self._aging_every = aging_every
        self._classes = tuple(_ClassLine() for _ in Priority)
        self._by_arrival: OrderedDict[int, Waiter] = OrderedDict()
        self._by_start: _Timed = []
        self._since_aged = 0  # Admissions since the guard last spoke.

    def __len__(self) -> int:
        return len(self._by_arrival)

    @property
    def next_expiry(self) -> float:
        """The earliest `start_by` of all; inf when nobody waits."""
        return self._by_start[0][0] if self._by_start else float("inf")

    def oldest(self) -> Waiter | None:
        return next(iter(self._by_arrival.values()), None)

    def push(self, waiter: Waiter) -> None:
        self._by_arrival[waiter.number] = waiter
        insort(self._by_start, (waiter.start_by, waiter.number, waiter))
        self._classes[waiter.arrival.priority].push(waiter)

    def remove(self, waiter: Waiter) -> None:
        del self._by_arrival[waiter.number]
        del self._by_start[bisect_left(self._by_start, (waiter.start_by, waiter.number))]
        self._classes[waiter.arrival.priority].remove(waiter)

    def pop(self, now: float) -> Waiter | None:
        """Take out the one to be admitted now."""
        waiter = self._next(now)
        if waiter is not None:
            self._classes[waiter.arrival.priority].charge(waiter)
            self.remove(waiter)
        return waiter

    def pop_expired(self, now: float) -> Waiter | None:
        """Take out one that could no longer start in time."""
        if self.next_expiry > now:
            return None
        waiter = self._by_start[0][2]
        self.remove(waiter)
        return waiter

    def work_ahead_ms(self, waiter: Waiter) -> float:
        """Work that goes before a newcomer, were it pushed now.

        Later arrivals of higher classes and the guard are not in it, so it is rather short than long: better a
        waiter that expires than a refusal of one who had a chance.
        """
        higher_ms = sum(line.work_ms for line in self._classes[: waiter.arrival.priority])
        return higher_ms + self._classes[waiter.arrival.priority].work_ahead_ms(waiter)

    def work_up_to_ms(self, priority: Priority) -> float:
        """All waiting work of that class and the higher ones: what must drain before a newcomer finds room."""
        return sum(line.work_ms for line in self._classes[: priority + 1])

    def victim_for(self, arrival: Arrival) -> Waiter | None:
        """Who gives way to the newcomer when the line is full; None: nobody, the newcomer is refused.

        The lowest class below the newcomer's loses its newest waiter, out of the tenant with the most work in it.
        Inside the newcomer's own class a tenant loses one only if it would still hold more work than the
        newcomer's tenant: without that, one tenant's flood would fill the line and lock all others out.
        """
        for priority in reversed(Priority):
            line = self._classes[priority]
            if priority < arrival.priority:
                return None
            if not line.tenants:
                continue
            heaviest = line.heaviest()
            if priority == arrival.priority:
                own = line.tenants.get(arrival.tenant)
                own_ms = arrival.bounded_work_ms + (0.0 if own is None else own.work_ms)
                newest = next(reversed(heaviest.by_arrival.values()))
                if heaviest is own or heaviest.work_ms - newest.work_ms < own_ms:
                    return None
            return next(reversed(heaviest.by_arrival.values()))
        return None

    def _next(self, now: float) -> Waiter | None:
        oldest = self.oldest()
        if oldest is None:
            return None
        self._since_aged += 1
        if self._since_aged >= self._aging_every and now - oldest.arrived_at >= self._aging_after_s:
            self._since_aged = 0
            return oldest
        return next(line.first() for line in self._classes if line.tenants)
