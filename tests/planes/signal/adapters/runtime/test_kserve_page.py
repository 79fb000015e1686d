from __future__ import annotations

from pathlib import Path

import pytest

from infermesh.planes.signal.adapters.runtime.counter_window import Totals
from infermesh.planes.signal.adapters.runtime.kserve_page import KServePage, KServePageReader, ModelReading
from infermesh.planes.signal.adapters.runtime.prometheus_text import MetricsTextError

FIXTURES = Path(__file__).parents[4] / "fixtures"
TRITON_LOAD = (FIXTURES / "triton" / "metrics_load.txt").read_bytes()
TRITON_IDLE = (FIXTURES / "triton" / "metrics_idle.txt").read_bytes()
MLSERVER = (FIXTURES / "mlserver" / "metrics_load.txt").read_bytes()
# Shaped like the sample in the server's documentation; no binary of it can be had for a capture.
OVMS = b"""\
# TYPE ovms_current_requests gauge
ovms_current_requests{name="resnet",version="1"} 3
ovms_current_requests{name="resnet",version="2"} 1
# TYPE ovms_request_time_us histogram
ovms_request_time_us_count{interface="REST",name="resnet",version="1"} 2
ovms_request_time_us_sum{interface="REST",name="resnet",version="1"} 3000
ovms_request_time_us_count{interface="gRPC",name="resnet",version="1"} 4
ovms_request_time_us_sum{interface="gRPC",name="resnet",version="1"} 9000
"""


def _read(page: bytes) -> KServePage:
    return KServePageReader().read(page)


def test_tritons_page_tells_queue_and_time_of_each_model_and_not_when_it_was_started() -> None:
    page = _read(TRITON_LOAD)
    assert page == KServePage(
        models={
            "addsub": ModelReading(queue_len=64, whole=Totals(ttft_s_sum=490.294059, ttft_count=609.0)),
            "tokgen": ModelReading(queue_len=2, whole=Totals(ttft_s_sum=29.634228, ttft_count=38.0)),
        },
        started_unix_s=0.0,
        tells_queue=True,
    )


def test_an_idle_triton_tells_that_nothing_waits() -> None:
    page = _read(TRITON_IDLE)
    assert page.tells_queue
    assert all(model.queue_len == 0 for model in page.models.values())


def test_the_time_to_the_first_response_of_newer_tritons_is_read() -> None:
    page = TRITON_LOAD + (
        b'nv_inference_first_response_histogram_ms_count{model="tokgen",version="1"} 38\n'
        b'nv_inference_first_response_histogram_ms_sum{model="tokgen",version="1"} 1900\n'
    )
    models = _read(page).models
    first = models["tokgen"].first
    assert first is not None
    assert first.ttft_s_sum == pytest.approx(1.9)
    assert first.ttft_count == 38.0
    assert models["addsub"].first is None


def test_mlservers_page_tells_times_and_its_start_and_no_load() -> None:
    page = _read(MLSERVER)
    assert page.started_unix_s == pytest.approx(1.79548446797e9)
    assert not page.tells_queue
    model = page.models["m1"]
    assert (model.queue_len, model.running, model.whole.ttft_count) == (0, 0, 1984.0)
    assert model.whole.ttft_s_sum == pytest.approx(80.0088, abs=1e-3)


def test_ovms_tells_what_is_inside_summed_over_versions_and_faces() -> None:
    model = _read(OVMS).models["resnet"]
    assert (model.queue_len, model.running) == (0, 4)
    assert model.whole.ttft_count == 6.0
    assert model.whole.ttft_s_sum == pytest.approx(0.012)


def test_a_page_of_something_else_has_no_models() -> None:
    assert _read(b"# a page\nup 1\n") == KServePage(models={}, started_unix_s=0.0, tells_queue=False)


@pytest.mark.parametrize("value", [b"NaN", b"-1", b"+Inf", b"1e300"])
def test_a_queue_that_is_no_count_makes_the_page_unreadable(value: bytes) -> None:
    with pytest.raises(MetricsTextError, match="nv_inference_pending_request_count is"):
        _read(b'nv_inference_pending_request_count{model="m",version="1"} ' + value + b"\n")


def test_an_absurd_queue_is_cut_to_what_a_state_can_carry() -> None:
    page = _read(b'nv_inference_pending_request_count{model="m",version="1"} 1e17\n')
    assert page.models["m"].queue_len == 2**31 - 1
