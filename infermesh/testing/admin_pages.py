"""Pages of the admin port as a daemon answers them, for tests of whatever reads them. Values only."""

from __future__ import annotations

Json = dict[str, object]

NODES: Json = {
    "me": "edge",
    "mode": "mesh",
    "view_version": 7,
    "nodes": [
        {"node": "edge", "roles": ["router"], "zone": "", "state": "alive", "since_s": 65.0, "models": [], "gpus": []},
        {
            "node": "gpu-a",
            "roles": ["gpu"],
            "zone": "rack-1",
            "state": "alive",
            "since_s": 12.25,
            "rtt_ms": 0.31,
            "reason": "",
            "address": "127.0.0.1:7001",
            "emulated": True,
            "runtimes": ["emulated"],
            "models": [
                {
                    "node": "gpu-a",
                    "model": "emulated-8b",
                    "runtime": "emulated",
                    "lifecycle": "ready",
                    "queue_len": 2,
                    "running": 3,
                    "slots": 256,
                    "kv_usage": 0.125,
                    "ttft_ms": 91.5,
                    "itl_ms": 15.25,
                    "generation_tokens_per_s": 120.0,
                    "prefix_hit_rate": 0.5,
                    "age_s": 0.03,
                    "inflight": 5,
                    "unavailable": "",
                }
            ],
            "gpus": [],
        },
        {
            "node": "gpu-b",
            "roles": ["gpu"],
            "zone": "",
            "state": "dead",
            "since_s": 3.0,
            "rtt_ms": 0.0,
            "reason": "connection refused",
            "address": "127.0.0.1:7002",
            "emulated": False,
            "runtimes": ["vllm"],
            "models": [
                {
                    "model": "llama",
                    "replica": 1,
                    "runtime": "vllm",
                    "lifecycle": "unknown",
                    "unavailable": "node dead",
                }
            ],
            "gpus": [
                {
                    "gpu_uuid": "GPU-1",
                    "name": "H100",
                    "health": "unknown",
                    "sm_utilization": 0.5,
                    "memory_used_bytes": 2**30,
                    "memory_total_bytes": 80 * 2**30,
                    "temperature_c": 51.0,
                    "power_w": 300.0,
                }
            ],
        },
    ],
}

MODELS: Json = {
    "models": [
        {"model": "emulated-8b", "nodes": ["gpu-a"], "ready": 1, "queue_len": 2, "running": 3, "emulated": True},
        {"model": "llama", "nodes": ["gpu-b"], "ready": 0, "queue_len": 0, "running": 0, "emulated": False},
    ]
}

_CANDIDATE: Json = {
    "node": "gpu-a",
    "score_ms": 825.0,
    "breakdown": {"network_ms": 5.3, "queue_ms": 206.0, "prefill_ms": 182.0, "decode_ms": 977.0, "penalty_ms": 0.0},
    "ttft_ms": 393.3,
    "total_ms": 1370.3,
    "low_ms": 806.0,
    "high_ms": 843.0,
    "signal_age_s": 0.013,
    "own_inflight": 8,
    "correction": 1.28,
}

SCORE: Json = {
    "model": "emulated-8b",
    "policy": "predicted_ms",
    "candidates": [_CANDIDATE],
    "excluded": [{"node": "gpu-b", "reason": "node dead"}],
}

EXPLAIN: Json = {
    "request_id": "abc123",
    "route": "/v1/completions",
    "protocol": "http/2",
    "ending": "failed",
    "reason": "broken_stream",
    "model": "emulated-8b",
    "received_unix_s": 1_700_000_000.25,
    "priority": "default",
    "queue_wait_ms": 12.5,
    "policy": "predicted_ms",
    "candidates": [_CANDIDATE],
    "attempts": [
        {"attempt": 0, "node": "gpu-a", "verdict": "cancelled", "first_byte_ms": None, "total_ms": 140.0},
        {"attempt": 1, "node": "gpu-c", "verdict": "ok", "first_byte_ms": 44.0, "total_ms": 900.0, "hedge": True},
        {"attempt": 2, "node": "gpu-b", "verdict": None, "first_byte_ms": None, "total_ms": None, "detail": "why"},
    ],
    "status": 200,
    "excluded": [{"node": "gpu-b", "reason": "node dead"}],
}

SUMMARY: Json = {
    "requests": 1234,
    "completed": 1200,
    "failed": 4,
    "rejected": 10,
    "cancelled": 15,
    "in_flight": 5,
    "ttft_ms": {"p50": 90.0, "p90": 220.0, "p99": 1420.0},
    "per_node": {"gpu-a": {"chosen": 900, "won": 880, "cancelled": 9}},
    "hedges": {"fired": 30, "won": 12, "lost": 18, "denied": 7},
    "cancelled_upstream": 33,
}
