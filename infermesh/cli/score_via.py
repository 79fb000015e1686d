"""A score asked of a router's mesh port (`infermesh.scoring.v1`), as the document that its admin port would give."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from infermesh.cli.mesh_client import ask_mesh
from infermesh.core.model.names import ModelName, NodeId, target_key
from infermesh.core.model.nodes import Address
from infermesh.net.grpc.client import Channel
from wire.proto.infermesh.scoring.v1 import scoring_pb2 as pb
from wire.proto.infermesh.scoring.v1.scoring_grpc import ScoringServiceStub

Json = dict[str, object]

# What the admin port assumes where nothing is said, so that both ways give the same figures.
_PROMPT_TOKENS: Final = 512
_OUTPUT_TOKENS: Final = 128
_BYTES_PER_TOKEN: Final = 4
_PARTS: Final = ("network_ms", "queue_ms", "prefill_ms", "decode_ms", "penalty_ms", "others_ms")


def score_via(address: Address, identity: Path, model: str, prompt_tokens: int, output_tokens: int) -> bytes:
    """JSON. Raises CommandFailed."""
    facts = pb.RequestFacts(
        model=model,
        prompt_bytes=(prompt_tokens or _PROMPT_TOKENS) * _BYTES_PER_TOKEN,
        output_tokens_max=output_tokens or _OUTPUT_TOKENS,
        stream=True,
    )

    async def question(channel: Channel) -> pb.ScoreTargetsResponse:
        return await ScoringServiceStub(channel).score_targets(pb.ScoreTargetsRequest(facts=facts))

    answer = ask_mesh(address, identity, question)
    return msgspec.json.encode(
        {
            "model": model,
            "policy": answer.policy,
            "candidates": [_candidate(candidate) for candidate in answer.candidates],
            "excluded": [
                {"node": each.target.node, "target": _key(each.target), "reason": each.reason}
                for each in answer.excluded
            ],
        }
    )


def _candidate(candidate: pb.Candidate) -> Json:
    prediction = candidate.prediction
    return {
        "node": candidate.target.node,
        "target": _key(candidate.target),
        "score_ms": round(candidate.score_ms, 3),
        "ttft_ms": round(prediction.ttft_ms, 3),
        "total_ms": round(prediction.total_ms, 3),
        "breakdown": {part: round(getattr(prediction, part), 3) for part in _PARTS},
        "low_ms": round(prediction.low_ms, 3),
        "high_ms": round(prediction.high_ms, 3),
        "p95_ttft_ms": round(prediction.p95_ttft_ms, 3),
        "cached_tokens": prediction.cached_tokens,
        "uncached_tokens": prediction.uncached_tokens,
        "signal_age_s": round(prediction.signal_age_s, 4),
        "own_inflight": prediction.own_inflight,
        "correction": round(prediction.correction, 4),
    }


def _key(target: pb.Target) -> str:
    return target_key(NodeId(target.node), ModelName(target.model), target.replica)
