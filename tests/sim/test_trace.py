from pathlib import Path

import pytest

from infermesh.sim.trace import TraceError, TraceRequest, parse_azure, parse_mooncake, parse_trace

TRACES = Path(__file__).parents[1] / "fixtures" / "traces"


def _excerpt(name: str, requests_max: int = 0) -> tuple[TraceRequest, ...]:
    with (TRACES / name).open(encoding="utf-8") as lines:
        return parse_trace(lines, name=name, requests_max=requests_max)


def test_azures_layout_is_read_with_times_from_the_first_request() -> None:
    lines = [
        "TIMESTAMP,ContextTokens,GeneratedTokens\n",
        "2023-11-16 18:17:03.9799600,4808,10\r\n",
        "\n",
        "# a remark\n",
        "2023-11-16 18:17:04.0319600,3180,8\n",
        "2023-11-17 00:00:00.0000000,110,27\n",
    ]
    assert parse_azure(lines) == (
        TraceRequest(0.0, 4808, 10, ()),
        TraceRequest(0.052, 3180, 8, ()),
        TraceRequest(20_576.02004, 110, 27, ()),
    )


@pytest.mark.parametrize(
    ("early", "late", "days"),
    [
        ("2024-02-28", "2024-03-01", 2),
        ("2023-02-28", "2023-03-01", 1),
        ("2023-12-31", "2024-01-01", 1),
        ("2000-01-01", "2100-01-01", 36_525),
    ],
)
def test_days_between_two_stamps_follow_the_calendar(early: str, late: str, days: int) -> None:
    requests = parse_azure([f"{day} 00:00:00.0,1,1" for day in (early, late)])
    assert requests[1].arrival_s == days * 86_400.0


def test_mooncakes_layout_is_read_in_the_order_of_arrival() -> None:
    lines = [
        '{"timestamp": 9000, "input_length": 700, "output_length": 5, "hash_ids": [0, 3], "more": 1}\n',
        '{"timestamp": 3000, "input_length": 0, "output_length": 0}\n',
    ]
    assert parse_mooncake(lines) == (TraceRequest(0.0, 1, 1, ()), TraceRequest(6.0, 700, 5, (0, 3)))


def test_the_excerpts_are_read_by_their_suffix() -> None:
    azure = _excerpt("azure_llm_2023_code_300.csv")
    mooncake = _excerpt("mooncake_conversation_300.jsonl")
    assert (len(azure), azure[0], azure[-1].output_tokens) == (300, TraceRequest(0.0, 4808, 10, ()), 88)
    assert (len(mooncake), mooncake[0].prompt_tokens, mooncake[0].block_ids[:3]) == (300, 6758, (0, 1, 2))


def test_a_part_of_a_trace_is_its_beginning() -> None:
    assert _excerpt("azure_llm_2023_code_300.csv", 7) == _excerpt("azure_llm_2023_code_300.csv")[:7]
    assert _excerpt("mooncake_conversation_300.jsonl", 7) == _excerpt("mooncake_conversation_300.jsonl")[:7]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("t.txt", ["x"], r"t\.txt: a trace's name ends in \.csv \(Azure\) or \.jsonl"),
        ("t.csv", ["TIMESTAMP,ContextTokens,GeneratedTokens"], r"t\.csv: holds no request"),
        ("t.jsonl", [], r"t\.jsonl: holds no request"),
        ("t.csv", ["2023-11-16 18:17:03.9,1,1", "yesterday,1,1"], r"t\.csv:2: not TIMESTAMP"),
        ("t.csv", ["2023-11-16 18:17:03.9,one,1"], r"t\.csv:1: not TIMESTAMP"),
        ("t.jsonl", ['{"timestamp": 1}'], r"t\.jsonl:1: not a Mooncake request: .*input_length"),
        ("t.jsonl", ["nonsense"], r"t\.jsonl:1: not a Mooncake request"),
    ],
)
def test_a_bad_trace_is_refused_with_its_name_and_line(name: str, lines: list[str], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        parse_trace(lines, name=name)
