"""Invariant: any page of a runtime gives counts and times that are numbers, or the adapter's own error.

The first byte of the input chooses whose page it is: vLLM's metrics, Triton's (and MLServer's and OVMS') metrics, the
model list of OpenAI's API, the repository index of KServe. Read again by a reader that has read it, it says the same.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from pathlib import Path

import msgspec

from fuzz.target import Target, demand
from infermesh.planes.signal.adapters.runtime.kserve_index import read_index
from infermesh.planes.signal.adapters.runtime.kserve_page import KServePageReader
from infermesh.planes.signal.adapters.runtime.openai_models import read_model_list
from infermesh.planes.signal.adapters.runtime.port import RuntimeAdapterError
from infermesh.planes.signal.adapters.runtime.prometheus_text import MetricsTextError
from infermesh.planes.signal.adapters.runtime.vllm_page import VllmPageReader

COUNT_MAX = 2**31 - 1
_FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"


def read(data: bytes) -> object:
    page = data[1:]
    try:
        match data[0] % 4:
            case 0:
                return _twice(VllmPageReader(), page)
            case 1:
                return _twice(KServePageReader(), page)
            case 2:
                return read_model_list(page, "GET /v1/models")
            case _:
                return read_index(page, "POST /v2/repository/index")
    except (MetricsTextError, RuntimeAdapterError) as error:
        demand(len(str(error)) < 2_000, "an error as long as the runtime likes", len(str(error)))
        return type(error).__name__


def _twice(reader: VllmPageReader | KServePageReader, page: bytes) -> object:
    first = reader.read(page)
    demand(reader.read(page) == first, "read twice, two readings", first)
    return first


def check(data: bytes) -> Hashable:
    if not data:
        return "empty"
    found = read(data)
    if isinstance(found, str):
        return found
    for value in _numbers(msgspec.to_builtins(found)):
        demand(math.isfinite(value) and value >= 0, "a number that is none", value, found)
    return data[0] % 4, len(str(found)) > 60


def _numbers(value: object) -> Iterator[float]:
    match value:
        case bool() | str() | None:
            return
        case int() | float():
            yield value
        case dict():
            for each in value.values():
                yield from _numbers(each)
        case list() | tuple():
            for each in value:
                yield from _numbers(each)
        case _:
            raise AssertionError(f"a value of another kind: {value!r}")


_VLLM = b"""\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m",} 1e3 1732460000
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:cache_config_info{block_size="16",num_gpu_blocks="1024",kv_cache_size_tokens="None"} 1.0
vllm:time_to_first_token_seconds_sum{model_name="m\\"\\n"} 1.5 # {trace="x"} 1
vllm:time_to_first_token_seconds_count{model_name="m"} 4
vllm:engine_sleep_state{model_name="m",sleep_state="awake"} 0
process_start_time_seconds 1.7324e+09
"""
_TRITON = b"""\
nv_inference_pending_request_count{model="m",version="1"} 2
nv_inference_request_duration_us{model="m",version="1"} 1500
nv_inference_request_success{model="m",version="1"} 3
nv_inference_first_response_histogram_ms_sum{model="m"} 12
nv_inference_first_response_histogram_ms_count{model="m"} 3
ovms_current_requests{name="n"} 1
model_infer_request_duration_sum{model="o"} NaN
process_start_time_seconds +Inf
"""


def seeds() -> Iterator[bytes]:
    yield b"\x00" + _VLLM
    yield b"\x01" + _TRITON
    for page, line in ((b"\x00", b"vllm:num_requests_running"), (b"\x01", b"nv_inference_pending_request_count")):
        yield page + (line + b"{} 1e308\n") * 3
    for name in ("models.json", "models_lora.json"):
        yield b"\x02" + (_FIXTURES / "vllm" / name).read_bytes()
    yield b'\x02{"data":[{"id":"m","max_model_len":8192,"parent":"n"},{"id":""},{"id":"n","owned_by":"x"}]}'
    yield b'\x03[{"name":"m","version":"1","state":"READY"},{"name":"m","state":"UNAVAILABLE","reason":"unloaded"}]'
    yield b'\x03[{"name":"n","state":"State.LOADING"},{"name":"o","state":"UNAVAILABLE","reason":"broken"}]'
    yield b'\x03[{"name":"m","x":' + b"[" * 900 + b"]" * 900 + b"}]"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("infermesh.planes.signal.adapters.runtime",),
    words=(
        *_VLLM.splitlines(),
        *_TRITON.splitlines(),
        b"1e308",
        b"-1",
        b"NaN",
        b"1_0",
        b'"id":',
        b'"state":',
        b"[" * 600,
    ),
)
