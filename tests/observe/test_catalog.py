import pytest

from infermesh.core.model.names import NodeId
from infermesh.observe.catalog import CATALOG, LABELS, CounterSpec, HistogramSpec, Spec
from infermesh.observe.metrics import Metrics

# DESIGN section 4 names these; dashboards and scripts depend on them.
NAMED_BY_THE_DESIGN = {
    "infermesh_inferences_total",
    "infermesh_tokens_generated_total",
    "infermesh_model_queue_depth",
    "infermesh_inference_latency_seconds",
    "infermesh_time_to_first_token_seconds",
    "infermesh_router_target_chosen_total",
    "infermesh_requests_rejected_total",
    "infermesh_hedges_total",
    "infermesh_node_healthy",
}


def test_every_metric_that_the_design_names_is_there() -> None:
    assert {spec.name for spec in CATALOG} >= NAMED_BY_THE_DESIGN


def test_names_are_unique_and_carry_the_prefix_or_the_dcgm_name() -> None:
    names = [spec.name for spec in CATALOG]
    assert len(names) == len(set(names))
    assert all(name.startswith(("infermesh_", "DCGM_FI_DEV_")) for name in names)


def test_counters_and_only_counters_end_in_total() -> None:
    assert all(spec.name.endswith("_total") == isinstance(spec, CounterSpec) for spec in CATALOG)


def test_help_texts_need_no_escapes_and_end_with_a_full_stop_or_unit() -> None:
    for spec in CATALOG:
        assert spec.help.endswith("."), spec.name
        assert "\\" not in spec.help
        assert "\n" not in spec.help


def test_labels_come_from_the_one_set() -> None:
    assert all(set(spec.labels) <= LABELS for spec in CATALOG)
    with pytest.raises(ValueError, match="'path'"):
        Spec(name="infermesh_x", help="x.", labels=("path",))


def test_buckets_must_rise() -> None:
    with pytest.raises(ValueError, match="buckets must rise"):
        HistogramSpec(name="infermesh_x", help="x.", buckets=(1.0, 1.0))


def test_the_metrics_of_a_process_hold_every_row_once() -> None:
    families = Metrics(NodeId("edge"), "1").families()
    assert tuple(family.spec for family in families) == CATALOG
