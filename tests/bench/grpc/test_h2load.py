"""What h2load prints, and what the bench takes from it."""

from __future__ import annotations

import pytest

from tests.bench.grpc.h2load import LoadResult, parse

# As h2load 1.52 prints it.
OUTPUT = """\
finished in 2.00s, 37472.00 req/s, 37.60MB/s
requests: 74944 total, 75008 started, 74944 done, 74943 succeeded, 1 failed, 2 errored, 3 timeout
status codes: 74944 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 75.19MB (78842969) total, 220.08KB (225360) headers (space savings 95.82%), 72.97MB (76517824) data
                     min         max         mean         sd        +/- sd
time for request:       49us     19.30ms      1.63ms      2.70ms    85.79%
time for connect:       69us       190us       135us        41us    75.00%
"""


def test_the_summary_is_read_and_everything_but_a_success_is_a_failure() -> None:
    assert parse(OUTPUT) == LoadResult(succeeded=74943, failed=6, mean_ms=1.63)


@pytest.mark.parametrize(("mean", "mean_ms"), [("163us", 0.163), ("1.50s", 1500.0), ("0us", 0.0)])
def test_times_come_in_any_unit(mean: str, mean_ms: float) -> None:
    assert parse(OUTPUT.replace("1.63ms", mean)).mean_ms == pytest.approx(mean_ms)


def test_an_output_without_a_summary_is_an_error_that_shows_it() -> None:
    with pytest.raises(RuntimeError, match="value error"):
        parse("-D: value error 1.1\n")
