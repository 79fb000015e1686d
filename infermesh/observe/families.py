"""Metric families: plain numbers that the request path bumps by attribute, one child per label values.

Not a registry and not a format: `metrics.Metrics` holds the families, `exposition` writes them out. One
thread bumps and reads; there are no locks.

Duties of the caller: resolve a child once where its labels are known, keep it, and bump it in place
(`child.value += 1` 0.03 us, `child.observe(x)` 0.12 us, `family.at(...)` 0.1 us more). Never label with a
name that a client sent before the view knows it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from infermesh.observe.catalog import OPEN_LABELS, CounterSpec, GaugeSpec, HistogramSpec, Spec

OTHER = "other"
LABEL_CHARS_MAX = 128

Labels = tuple[str, ...]


class Value:
    """One number of a counter or a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Distribution:
    """One histogram: counts per bucket (not cumulated), their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        # bisect_left: a value equal to a bound belongs to that bound's bucket ("le").
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self.counts)


Child = TypeVar("Child", Value, Distribution)


class Family(Generic[Child]):
    """Children by label values, in the order of `spec.labels`; at most twice `spec.children_max`, and one."""

    def __init__(self, spec: Spec, folded: Value | None) -> None:
        self.spec = spec
        self._children: dict[Labels, Child] = {}
        self._folded = folded  # None: this is the family that counts the folds.
        if not spec.labels:
            self._children[()] = self._make()

    def child(self, **labels: str) -> Child:
        """By name; every label of the family must be given."""
        try:
            values = tuple([labels[name] for name in self.spec.labels])
        except KeyError as missing:
            raise ValueError(f"metric {self.spec.name}: label {missing} not given; got {labels}") from None
        if len(labels) != len(values):
            raise ValueError(f"metric {self.spec.name}: has labels {self.spec.labels}, got {tuple(labels)}")
        return self.at(*values)

    def at(self, *values: str) -> Child:
        """By position, in the order of the catalog: the cheap way."""
        found = self._children.get(values)
        return found if found is not None else self._add(values)

    def items(self) -> Iterator[tuple[Labels, Child]]:
        return iter(sorted(self._children.items()))

    def __len__(self) -> int:
        return len(self._children)

    def remove(self, *values: str) -> None:
        self._children.pop(values, None)

    def _add(self, values: Labels) -> Child:
        if len(values) != len(self.spec.labels):
            raise ValueError(f"metric {self.spec.name}: has labels {self.spec.labels}, got {values}")
        values = tuple([value[:LABEL_CHARS_MAX] for value in values])
        if values not in self._children and len(self._children) >= self.spec.children_max:
            values = self._fold(values)
        found = self._children.get(values)
        if found is None:
            found = self._children[values] = self._make()
        return found

    def _fold(self, values: Labels) -> Labels:
        """Keep the closed words, give up the open names; past twice the limit give up everything."""
        if self._folded is not None:
            self._folded.value += 1
        if len(self._children) >= 2 * self.spec.children_max:
            return (OTHER,) * len(values)
        return tuple(
            [OTHER if name in OPEN_LABELS else value for name, value in zip(self.spec.labels, values, strict=True)]
        )

    def _make(self) -> Child:
        raise NotImplementedError


class _Numbers(Family[Value]):
    def _make(self) -> Value:
        return Value()

    def sum(self, **labels: str) -> float:
        """Over the children that carry `labels`; over all when none is given. Not for the request path."""
        places = [(self.spec.labels.index(name), value) for name, value in labels.items()]
        return sum(
            child.value
            for values, child in self._children.items()
            if all(values[place] == value for place, value in places)
        )

    def by(self, label: str, **labels: str) -> dict[str, float]:
        """Sums by one label, over the children that carry `labels`."""
        place = self.spec.labels.index(label)
        names = sorted({values[place] for values in self._children})
        return {name: self.sum(**{label: name}, **labels) for name in names}


class Counter(_Numbers):
    """Numbers that only grow."""

    def __init__(self, spec: CounterSpec, folded: Value | None) -> None:
        super().__init__(spec, folded)


class Gauge(_Numbers):
    """Numbers that go up and down."""

    def __init__(self, spec: GaugeSpec, folded: Value | None) -> None:
        super().__init__(spec, folded)

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Become exactly these children: what is no longer there must not linger at its last value."""
        self._children.clear()
        for labels, value in values.items():
            self.at(*labels).value = value


class Histogram(Family[Distribution]):
    """Distributions over the buckets of the spec."""

    def __init__(self, spec: HistogramSpec, folded: Value | None) -> None:
        self.buckets = spec.buckets
        super().__init__(spec, folded)

    def _make(self) -> Distribution:
        return Distribution(self.buckets)


class RecentSample:
    """The last `values_max` values, for exact quantiles of the recent past. `add` 0.02 us, a read 1 ms."""

    __slots__ = ("_values", "add")

    def __init__(self, values_max: int = 10_000) -> None:
        self._values: deque[float] = deque(maxlen=values_max)  # When full, the oldest falls out.
        self.add = self._values.append

    def __len__(self) -> int:
        return len(self._values)

    def quantiles(self, shares: Sequence[float]) -> tuple[float, ...]:
        """Nearest-rank quantiles for shares in 0..1; zeros while empty."""
        if not self._values:
            return (0.0,) * len(shares)
        ranked = sorted(self._values)
        last = len(ranked) - 1
        return tuple(ranked[min(last, max(0, math.ceil(share * len(ranked)) - 1))] for share in shares)
