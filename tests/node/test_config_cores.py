from infermesh.core.routing.admission_config import AdmissionConfig
from infermesh.core.routing.router_config import RoutingConfig
from infermesh.node.config import load_config
from infermesh.node.config_cores import admission_config, routing_config

ID = {"INFERMESH_NODE__ID": "edge"}


def test_a_default_config_gives_the_cores_their_own_defaults() -> None:
    config = load_config(None, ID, {})
    assert routing_config(config) == RoutingConfig()
    assert admission_config(config) == AdmissionConfig()


def test_what_an_operator_sets_reaches_the_cores() -> None:
    flags = {
        "routing.policy": "round_robin",
        "routing.near_tie_ms": "5",
        "hedging.enabled": "false",
        "hedging.floor_ms": "75",
        "admission.queue_len_max": "7",
        "admission.queue_wait_max_s": "1",
    }
    config = load_config(None, ID, flags)
    routing = routing_config(config)
    assert (routing.policy, routing.near_tie_ms) == ("round_robin", 5.0)
    assert (routing.hedge_enabled, routing.hedge_floor_ms) == (False, 75.0)
    admission = admission_config(config)
    assert (admission.queue_len_max, admission.queue_wait_max_s, admission.no_capacity_wait_s) == (7, 1.0, 1.0)
