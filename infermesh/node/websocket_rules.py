"""What a client port's WebSockets may do, from the node's config."""

from __future__ import annotations

from infermesh.net.body_budget import BodyBudget
from infermesh.net.websocket import WebSocketConfig
from infermesh.node.config_sections import NodeConfig
from infermesh.planes.data.websockets import WebSocketRules
from wire.websocket import DeflateConfig


def websocket_rules(config: NodeConfig, bodies: BodyBudget) -> WebSocketRules:
    """A message is a request's body, so `[client]` bounds it as it bounds the others."""
    client, section = config.client, config.websocket
    return WebSocketRules(
        connections_max=section.connections_max,
        origins=frozenset(origin.lower() for origin in section.origins),
        socket=WebSocketConfig(
            message_bytes_max=client.body_bytes_max,
            bodies=bodies,
            message_timeout_s=client.body_timeout_s,
            ping_interval_s=section.ping_interval_s,
            ping_timeout_s=section.ping_timeout_s,
            send_timeout_s=client.send_timeout_s,
            deflate=DeflateConfig() if section.deflate else None,
        ),
    )
