import random
import timeit

import pytest

from infermesh.observe.catalog import CounterSpec, GaugeSpec, HistogramSpec
from infermesh.observe.families import LABEL_CHARS_MAX, Counter, Gauge, Histogram, RecentSample, Value

REQUESTS = CounterSpec(name="infermesh_x_total", help="x.", labels=("model", "result"), children_max=3)
LATENCY = HistogramSpec(name="infermesh_x_seconds", help="x.", labels=("model",), buckets=(0.1, 1.0))


def test_a_child_is_the_same_object_by_name_and_by_position() -> None:
    counter = Counter(REQUESTS, Value())
    child = counter.child(result="ok", model="m")
    child.value += 2
    assert counter.at("m", "ok") is child
    assert [(labels, child.value) for labels, child in counter.items()] == [(("m", "ok"), 2)]


def test_a_family_without_labels_starts_at_zero() -> None:
    counter = Counter(CounterSpec(name="infermesh_y_total", help="y."), Value())
    assert [(labels, child.value) for labels, child in counter.items()] == [((), 0)]


@pytest.mark.parametrize("labels", [{"model": "m"}, {"model": "m", "result": "ok", "node": "a"}, {}])
def test_wrong_label_names_are_an_error_that_names_the_metric(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="infermesh_x_total"):
        Counter(REQUESTS, Value()).child(**labels)


def test_wrong_label_counts_are_an_error_that_names_the_metric() -> None:
    with pytest.raises(ValueError, match="infermesh_x_total"):
        Counter(REQUESTS, Value()).at("m")


def test_a_full_family_folds_open_names_keeps_closed_words_and_counts_it() -> None:
    folded = Value()
    counter = Counter(REQUESTS, folded)
    for number in range(5):
        counter.at(f"model-{number}", "ok").value += 1
    counter.at("model-9", "failed").value += 1
    assert {labels: child.value for labels, child in counter.items()} == {
        ("model-0", "ok"): 1,
        ("model-1", "ok"): 1,
        ("model-2", "ok"): 1,
        ("other", "ok"): 2,
        ("other", "failed"): 1,
    }
    assert folded.value == 3


def test_a_full_family_still_finds_the_children_that_it_has() -> None:
    folded = Value()
    counter = Counter(REQUESTS, folded)
    children = [counter.at(f"model-{number}", "ok") for number in range(3)]
    counter.at("model-3", "ok")
    assert [counter.at(f"model-{number}", "ok") for number in range(3)] == children
    assert folded.value == 1


def test_a_family_never_grows_past_twice_its_limit_and_one() -> None:
    counter = Counter(REQUESTS, Value())
    for number in range(100):
        counter.at(f"model-{number}", f"word-{number}").value += 1
    assert len(counter) == 7
    assert counter.sum() == 100


def test_a_long_label_value_is_cut_and_still_one_child() -> None:
    counter = Counter(REQUESTS, Value())
    assert counter.at("m" * 9000, "ok") is counter.at("m" * 9000, "ok")
    assert [len(labels[0]) for labels, _ in counter.items()] == [LABEL_CHARS_MAX]


def test_sums_select_and_group_by_label() -> None:
    counter = Counter(REQUESTS, Value())
    counter.at("a", "ok").value += 1
    counter.at("a", "failed").value += 2
    counter.at("b", "ok").value += 4
    assert counter.sum() == 7
    assert counter.sum(model="a") == 3
    assert counter.by("result") == {"failed": 2, "ok": 5}
    assert counter.by("model", result="ok") == {"a": 1, "b": 4}


def test_replacing_a_gauge_leaves_nothing_behind() -> None:
    gauge = Gauge(GaugeSpec(name="infermesh_g", help="g.", labels=("node",)), Value())
    gauge.at("gone").value = 1
    gauge.replace({("a",): 1, ("b",): 0})
    assert [(labels, child.value) for labels, child in gauge.items()] == [(("a",), 1), (("b",), 0)]


def test_a_removed_child_is_gone_and_removing_twice_is_fine() -> None:
    gauge = Gauge(GaugeSpec(name="infermesh_g", help="g.", labels=("node",)), Value())
    gauge.at("a").value = 1
    gauge.remove("a")
    gauge.remove("a")
    assert len(gauge) == 0


def test_a_value_on_a_bound_falls_into_that_bounds_bucket() -> None:
    child = Histogram(LATENCY, Value()).child(model="m")
    for value in (0.0, 0.1, 0.100001, 1.0, 1.5):
        child.observe(value)
    assert child.counts == [2, 2, 1]
    assert child.count == 5
    assert child.total == pytest.approx(2.700001)


def test_recent_quantiles_are_exact_and_forget_the_oldest() -> None:
    recent = RecentSample(values_max=100)
    assert recent.quantiles((0.5, 0.99)) == (0.0, 0.0)
    values = [float(number) for number in range(1, 201)]
    random.Random(1).shuffle(values)
    for value in values:
        recent.add(value)
    kept = sorted(values[-100:])
    assert len(recent) == 100
    assert recent.quantiles((0.0, 0.5, 0.9, 0.99, 1.0)) == (kept[0], kept[49], kept[89], kept[98], kept[99])


def test_bumps_stay_cheap() -> None:
    """Ten times the measured cost: this catches a lock or a string built on the path, not a slow machine."""
    counter = Counter(REQUESTS, Value())
    child = counter.at("m", "ok")
    observe = Histogram(LATENCY, Value()).at("m").observe
    cost_us = {
        "value": _cost_us(lambda: setattr(child, "value", child.value + 1)),
        "at": _cost_us(lambda: counter.at("m", "ok")),
        "observe": _cost_us(lambda: observe(0.5)),
    }
    assert all(cost < 4.0 for cost in cost_us.values()), cost_us


def _cost_us(work: object) -> float:
    assert callable(work)
    return min(timeit.repeat(work, number=5000, repeat=9)) / 5000 * 1e6
