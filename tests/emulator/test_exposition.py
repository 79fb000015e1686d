"""The /metrics page against a capture of vLLM 0.32.0 (our own run) and against promtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from infermesh.core.model.engine import PROFILES, Engine
from infermesh.emulator.exposition import metrics_page
from infermesh.emulator.metrics import EngineMetrics, Snapshot, engine_labels

CAPTURE = Path(__file__).parents[1] / "fixtures" / "vllm" / "metrics_load.txt"
_SERIES = re.compile(r"^([a-zA-Z_:]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="')


def _page() -> str:
    snapshots = []
    for model in ("one", 'odd "name"'):
        engine = Engine(PROFILES["tiny"])
        engine.submit(1, prompt_tokens=40, output_tokens=3, blocks=(1, 2))
        engine.submit(2, prompt_tokens=40, output_tokens=3, blocks=(1, 2))
        for _ in range(2):
            engine.step()
        metrics = EngineMetrics(model, context_tokens_max=1_024)
        metrics.first_token.observe(0.02)
        metrics.first_token.observe(0.0200001)
        metrics.between_tokens.observe(0.1, times=3)
        metrics.finished["length"] += 1
        snapshots.append(Snapshot(engine, metrics, stuck=1))
    http = Counter({("/v1/models", "GET", "2xx"): 3})
    return metrics_page(
        snapshots, PROFILES["tiny"], speed=2.0, started_unix_s=1_795_483_731.5, http_requests=http
    ).decode()


def _types(text: str) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))


def _label_names(text: str) -> dict[str, set[str]]:
    return {name: set(_LABEL.findall(labels)) for name, labels, _ in _SERIES.findall(text)}


def _value(text: str, series: str) -> float:
    return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(series + " "))


def test_every_family_is_one_of_vllms_with_its_type() -> None:
    captured = _types(CAPTURE.read_text())
    ours = _types(_page())
    assert ours.pop("infermesh_emulated") == "gauge"
    assert {name: captured.get(name) for name in ours} == ours


def test_every_series_has_vllms_labels() -> None:
    captured = _label_names(CAPTURE.read_text())
    ours = _label_names(_page())
    del ours["infermesh_emulated"]
    assert ours.pop("vllm:cache_config_info") < captured.pop("vllm:cache_config_info") | {"nothing"}
    assert ours == {name: captured[name] for name in ours}


def test_every_histogram_has_vllms_buckets() -> None:
    def buckets(text: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, edge in re.findall(r'^(vllm:\S+)_bucket\{.*?le="([^"]+)"', text, re.MULTILINE):
            found.setdefault(name, set()).add(edge)
        return found

    captured, ours = buckets(CAPTURE.read_text()), buckets(_page())
    assert len(ours) >= 12
    assert ours == {name: captured[name] for name in ours}


def test_the_page_says_what_the_engine_does_and_that_it_is_emulated() -> None:
    text = _page()
    one = engine_labels("one")
    assert _value(text, f'infermesh_emulated{{{one},profile="tiny",speed="2.0"}}') == 1.0
    assert _value(text, f"vllm:num_requests_running{{{one}}}") == 2.0
    assert _value(text, f"vllm:num_requests_waiting{{{one}}}") == 1.0
    assert _value(text, f"vllm:prefix_cache_hits_total{{{one}}}") == 32.0
    assert _value(text, f"vllm:prompt_tokens_total{{{one}}}") == 80.0
    assert _value(text, f'vllm:time_to_first_token_seconds_bucket{{le="0.02",{one}}}') == 1.0
    assert _value(text, f'vllm:time_to_first_token_seconds_bucket{{le="+Inf",{one}}}') == 2.0
    assert _value(text, f"vllm:inter_token_latency_seconds_sum{{{one}}}") == pytest.approx(0.3)
    assert 'num_gpu_blocks="256"' in text
    assert 'kv_cache_size_tokens="4096"' in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_that_it_does_not_find_in_a_real_vllm() -> None:
    def complaints(text: str) -> set[str]:
        run = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        return set((run.stdout + run.stderr).splitlines())

    assert complaints(_page()) <= complaints(CAPTURE.read_text())
