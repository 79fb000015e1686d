from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from infermesh.planes.signal.adapters.runtime.prometheus_text import (
    LABEL_BLOCKS_MAX,
    LINE_BYTES_MAX,
    MetricsScanner,
    MetricsTextError,
    Sample,
)

CAPTURES = Path(__file__).parents[4] / "fixtures" / "vllm"


def _scan(page: bytes, name: str = "m") -> list[Sample]:
    return MetricsScanner([name]).scan(page)[name]


@pytest.mark.parametrize("capture", ["metrics_idle.txt", "metrics_load.txt"])
def test_a_real_page_reads_as_the_reference_parser_reads_it(capture: str) -> None:
    page = (CAPTURES / capture).read_text()
    expected: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            expected.setdefault(sample.name, []).append(Sample(sample.labels, sample.value))
    assert len(expected) > 100
    assert MetricsScanner(expected).scan(page.encode()) == expected


def test_a_page_read_twice_gives_the_same_twice() -> None:
    page = (CAPTURES / "metrics_load.txt").read_bytes()
    scanner = MetricsScanner(["vllm:num_requests_running", "process_start_time_seconds"])
    first = scanner.scan(page)
    assert scanner.scan(page) == first
    assert first["vllm:num_requests_running"] == [Sample({"engine": "0", "model_name": "tiny"}, 8.0)]
    assert first["process_start_time_seconds"] == [Sample({}, 1795483664.82)]


def test_a_name_that_is_missing_has_no_samples_and_one_that_begins_alike_is_not_it() -> None:
    page = b"# HELP m text\n# TYPE m gauge\nm_total 1\nmm 2\nxm 3\n m 4\n"
    assert MetricsScanner(["m", "m_total", "absent"]).scan(page) == {
        "m": [],
        "m_total": [Sample({}, 1.0)],
        "absent": [],
    }


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        (b"m 1", Sample({}, 1.0)),
        (b"m\t1", Sample({}, 1.0)),
        (b"m{} 1", Sample({}, 1.0)),
        (b'm{a="b"} 1', Sample({"a": "b"}, 1.0)),
        (b'm{a="b"}1', Sample({"a": "b"}, 1.0)),
        (b'm{Level="Host",Hostname="vm",} 0.5', Sample({"Level": "Host", "Hostname": "vm"}, 0.5)),
        (b'm { a = "b" , c = "d" } 1', Sample({"a": "b", "c": "d"}, 1.0)),
        (b'm{a="}"} 1', Sample({"a": "}"}, 1.0)),
        (b'm{a="x,y=\\"z\\""} 1', Sample({"a": 'x,y="z"'}, 1.0)),
        (
            b'm{a="back\\\\slash",b="new\\nline",c="\\q"} 1',
            Sample({"a": "back\\slash", "b": "new\nline", "c": "\\q"}, 1.0),
        ),
        ('m{a="größe"} 1'.encode(), Sample({"a": "größe"}, 1.0)),
        (b"m 1.5e-3 1795483664000", Sample({}, 0.0015)),
        (b'm{a="b"} +Inf', Sample({"a": "b"}, float("inf"))),
        (b"m -1", Sample({}, -1.0)),
        (b'm_bucket{le="1"} 3 # {trace_id="abc"} 0.67', Sample({"le": "1"}, 3.0)),
    ],
)
def test_what_real_servers_write_is_read(line: bytes, sample: Sample) -> None:
    name = "m_bucket" if line.startswith(b"m_bucket") else "m"
    assert _scan(line + b"\n", name) == [sample]
    assert _scan(b"x 1\r\n" + line + b"\r\ny 2\r\n", name) == [sample]


def test_not_a_number_is_a_value_of_the_format() -> None:
    (sample,) = _scan(b"m NaN\n")
    assert sample.value != sample.value


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"m one", "not a number"),
        (b"m 1 2 3", "not a number"),
        (b"m 1 soon", "not a number"),
        (b"m 1_000", "not a number"),
        (b"m ", "not a number"),
        (b'm{a="b" 1', "labels that cannot be read"),
        (b"m{a=b} 1", "labels that cannot be read"),
        (b'm{a="b} 1', "labels that cannot be read"),
        (b'm{1a="b"} 1', "labels that cannot be read"),
        (b'm{a="b" c="d"} 1', "labels that cannot be read"),
        (b'm{a="b"', "labels that cannot be read"),
        (b'm{a="b",a="c"} 1', "twice"),
        (b'm{a="\xff"} 1', "not UTF-8"),
    ],
)
def test_a_broken_line_of_a_series_asked_for_is_an_error_that_names_it(line: bytes, why: str) -> None:
    with pytest.raises(MetricsTextError, match=f"^m: .*{why}"):
        _scan(b"x 1\n" + line + b"\n")


def test_a_broken_line_of_another_series_is_not_our_affair() -> None:
    assert _scan(b'<html>\nother{a="b 1\nm 1\n') == [Sample({}, 1.0)]


def test_a_line_at_the_limit_is_read_and_one_byte_more_is_refused() -> None:
    start, end = b'{a="', b'"} 1'
    room = LINE_BYTES_MAX - len(start) - len(end)
    assert len(_scan(b"m" + start + b"x" * room + end + b"\n")) == 1
    with pytest.raises(MetricsTextError, match="a line of 65537 bytes, the limit is 65536"):
        _scan(b"m" + start + b"x" * (room + 1) + end + b"\n")


def test_label_blocks_without_end_do_not_fill_the_memory() -> None:
    scanner = MetricsScanner(["m"])
    for start in range(0, 3 * LABEL_BLOCKS_MAX, LABEL_BLOCKS_MAX):
        page = b"".join(b'm{a="%d"} 1\n' % (start + number) for number in range(LABEL_BLOCKS_MAX))
        assert len(scanner.scan(page)["m"]) == LABEL_BLOCKS_MAX
    assert scanner.blocks_len <= LABEL_BLOCKS_MAX


NAMES = ["a", "ab", "abc", "b", "a:b", "a_total"]


@settings(deadline=None)
@given(st.text(alphabet='abc_:{}="\\, \n1.eE+-#\t', max_size=200))
def test_any_text_gives_samples_or_one_plain_error(text: str) -> None:
    try:
        found = MetricsScanner(NAMES).scan(text.encode())
    except MetricsTextError:
        return
    assert set(found) == set(NAMES)


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), max_size=20))
def test_names_that_begin_alike_are_told_apart(names: list[str]) -> None:
    page = "".join(f"{name} {number}\n" for number, name in enumerate(names)).encode()
    found = MetricsScanner(NAMES).scan(page)
    for name in NAMES:
        assert [sample.value for sample in found[name]] == [at for at, other in enumerate(names) if other == name]
