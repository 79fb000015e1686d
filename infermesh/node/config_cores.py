"""The settings of the pure cores, made from a node's config. Their own `validate` has the last word."""

from __future__ import annotations

from infermesh.core.routing.admission_config import AdmissionConfig
from infermesh.core.routing.router_config import RoutingConfig
from infermesh.node.config_sections import NodeConfig


def routing_config(config: NodeConfig) -> RoutingConfig:
    """Raises ValueError that names the setting."""
    built = RoutingConfig(
        policy=config.routing.policy,
        near_tie_ms=config.routing.near_tie_ms,
        near_tie_share=config.routing.near_tie_share,
        hedge_enabled=config.hedging.enabled,
        hedge_floor_ms=config.hedging.floor_ms,
    )
    built.validate()
    return built


def admission_config(config: NodeConfig) -> AdmissionConfig:
    """Raises ValueError that names the setting."""
    section = config.admission
    built = AdmissionConfig(
        queue_len_max=section.queue_len_max,
        queue_wait_max_s=section.queue_wait_max_s,
        overcommit=section.overcommit,
        retry_after_min_s=section.retry_after_min_s,
        retry_after_max_s=section.retry_after_max_s,
        # Not a key of its own: an operator who shortens the wait means this one too.
        no_capacity_wait_s=min(AdmissionConfig().no_capacity_wait_s, section.queue_wait_max_s),
    )
    built.validate()
    return built
