from __future__ import annotations

from pathlib import Path

import pytest

from infermesh.planes.signal.adapters.runtime.counter_window import Totals
from infermesh.planes.signal.adapters.runtime.prometheus_text import MetricsTextError
from infermesh.planes.signal.adapters.runtime.vllm_page import NAMES, EngineReading, VllmPageReader

CAPTURES = Path(__file__).parents[4] / "fixtures" / "vllm"
LOAD = (CAPTURES / "metrics_load.txt").read_bytes()


def test_the_page_of_a_real_server_under_load_is_read() -> None:
    reading = VllmPageReader().read(LOAD)
    assert reading.engines == {
        "tiny": EngineReading(
            running=8,
            queue_len=8,
            kv_usage=0.0003967406231879522,
            kv_capacity_tokens=1_048_576,
            awake=True,
            totals=Totals(
                ttft_s_sum=69.82743573188782,
                ttft_count=48.0,
                itl_s_sum=71.77078399099628,
                itl_count=2176.0,
                prompt_tokens=7247.0,
                generation_tokens=2224.0,
                prefix_hits=6400.0,
                prefix_queries=7247.0,
            ),
        )
    }
    assert (reading.started_unix_s, reading.missing) == (1795483664.82, ())
    assert reading.tells_load


def test_the_page_of_a_real_server_at_rest_has_every_name_and_no_load() -> None:
    reading = VllmPageReader().read((CAPTURES / "metrics_idle.txt").read_bytes())
    assert reading.missing == ()
    assert (reading.engines["tiny"].running, reading.engines["tiny"].queue_len) == (0, 0)


@pytest.mark.parametrize("signal", sorted(NAMES.keys() - {"sleep", "started"}))
def test_a_renamed_metric_is_missed_by_name(signal: str) -> None:
    name = NAMES[signal][0]
    reading = VllmPageReader().read(LOAD.replace(b"\n" + name.encode() + b"{", b"\nvllm:renamed{"))
    assert reading.missing == (name,)
    assert reading.tells_load is (signal not in ("running", "queue_len"))


def test_the_names_of_older_servers_are_understood() -> None:
    page = LOAD.replace(b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc")
    page = page.replace(b"vllm:inter_token_latency_seconds", b"vllm:time_per_output_token_seconds")
    page = page.replace(b"vllm:prefix_cache_", b"vllm:gpu_prefix_cache_")
    assert VllmPageReader().read(page) == VllmPageReader().read(LOAD)


PARALLEL = b"""vllm:num_requests_running{engine="0",model_name="a"} 3.0
vllm:num_requests_running{engine="1",model_name="a"} 4.0
vllm:num_requests_waiting{engine="0",model_name="a"} 1.0
vllm:num_requests_waiting{engine="1",model_name="a"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="a"} 0.25
vllm:cache_config_info{engine="0",block_size="16",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{engine="1",block_size="16",num_gpu_blocks="200"} 1.0
vllm:prompt_tokens_total{engine="0",model_name="a"} 10.0
vllm:prompt_tokens_total{engine="1",model_name="a"} 20.0
"""


def test_data_parallel_engines_are_added_up() -> None:
    engine = VllmPageReader().read(PARALLEL).engines["a"]
    assert (engine.running, engine.queue_len) == (7, 1)
    assert engine.kv_usage == 0.375
    assert engine.kv_capacity_tokens == 300 * 16
    assert engine.totals.prompt_tokens == 30.0


SEVERAL = b"""vllm:num_requests_running{engine="0",model_name="a"} 3.0
vllm:num_requests_running{engine="0",model_name="b"} 4.0
vllm:num_requests_waiting{engine="0",model_name="a"} 1.0
vllm:num_requests_waiting{engine="0",model_name="b"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 1.5
vllm:cache_config_info{model_name="a",kv_cache_size_tokens="1000"} 1.0
vllm:cache_config_info{model_name="b",kv_cache_size_tokens="None",num_gpu_blocks="None",block_size="16"} 1.0
vllm:engine_sleep_state{model_name="b",sleep_state="awake"} 0.0
vllm:engine_sleep_state{model_name="b",sleep_state="discard_all"} 0.0
vllm:engine_sleep_state{model_name="a",sleep_state="awake"} 1.0
"""


def test_several_models_are_kept_apart() -> None:
    engines = VllmPageReader().read(SEVERAL).engines
    assert [(name, engine.running, engine.queue_len) for name, engine in engines.items()] == [("a", 3, 1), ("b", 4, 2)]
    assert [engine.kv_capacity_tokens for engine in engines.values()] == [1000, 0]
    assert [engine.awake for engine in engines.values()] == [True, False]
    assert engines["a"].kv_usage == 1.0


@pytest.mark.parametrize(
    "line",
    [
        b'vllm:num_requests_running{model_name="a"} NaN',
        b'vllm:num_requests_waiting{model_name="a"} -1',
        b'vllm:num_requests_waiting{model_name="a"} +Inf',
        b'vllm:kv_cache_usage_perc{model_name="a"} NaN',
        b'vllm:prompt_tokens_total{model_name="a"} -3',
        b'vllm:num_requests_running{model_name="a"} 1e308',  # Found by fuzzing: two of them are infinite together.
    ],
)
def test_a_value_that_cannot_be_makes_the_page_unreadable(line: bytes) -> None:
    with pytest.raises(MetricsTextError, match=r"^vllm:.* is "):
        VllmPageReader().read(line + b"\n")


def test_a_page_that_is_something_else_lacks_every_name() -> None:
    reading = VllmPageReader().read(b"<html>It works!</html>")
    assert reading.engines == {}
    assert not reading.tells_load
    assert len(reading.missing) == len(NAMES) - 2
