"""How many requests a fleet runs at once: the number that `Admission.set_capacity` wants."""

from __future__ import annotations

from collections.abc import Iterable

from infermesh.core.model.targets import Target


def fleet_slots(targets: Iterable[Target], *, slots_unknown: int) -> int:
    """Slots of these targets together; pass `view.eligible[model]`. An engine that does not say its number of
    slots counts as `slots_unknown` of them (`slots` of its [[runtimes]] entry, or the default there)."""
    return sum(target.state.slots or slots_unknown for target in targets)
