"""Names of the things that the mesh talks about. Strings underneath; distinct types above."""

from __future__ import annotations

from typing import NewType

NodeId = NewType("NodeId", str)
"""The last part of a node's SPIFFE id: `gpu-a` in `spiffe://example/node/gpu-a`."""

ModelName = NewType("ModelName", str)
"""The name that clients put into `model`, case-sensitive."""

TargetKey = NewType("TargetKey", str)
"""`node/model`: one model as served by one runtime of a node; `node/model#1` by its second runtime, and so on."""


def target_key(node: NodeId, model: ModelName, replica: int = 0) -> TargetKey:
    return TargetKey(f"{node}/{model}#{replica}" if replica else f"{node}/{model}")
