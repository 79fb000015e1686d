from __future__ import annotations

from infermesh.planes.signal.adapters.runtime.counter_window import CounterWindow, Recent, Totals


def test_one_reading_says_nothing_yet() -> None:
    window = CounterWindow(5.0)
    assert window.add(Totals(ttft_s_sum=100.0, ttft_count=50.0), now=0.0) == Recent()


def test_means_and_rates_are_differences_over_the_window() -> None:
    window = CounterWindow(5.0)
    window.add(
        Totals(
            ttft_s_sum=10.0,
            ttft_count=5.0,
            itl_s_sum=1.0,
            itl_count=100.0,
            prompt_tokens=1000.0,
            generation_tokens=500.0,
            prefix_hits=10.0,
            prefix_queries=20.0,
        ),
        now=0.0,
    )
    recent = window.add(
        Totals(
            ttft_s_sum=11.0,
            ttft_count=9.0,
            itl_s_sum=3.0,
            itl_count=200.0,
            prompt_tokens=3000.0,
            generation_tokens=600.0,
            prefix_hits=40.0,
            prefix_queries=60.0,
        ),
        now=2.0,
    )
    assert recent == Recent(
        ttft_ms=250.0,
        itl_ms=20.0,
        prompt_tokens_per_s=1000.0,
        generation_tokens_per_s=50.0,
        prefix_hit_rate=0.75,
    )


def test_what_is_older_than_the_window_no_longer_counts() -> None:
    window = CounterWindow(2.0)
    for second in range(11):
        # One request a second of 1 s until t = 5, then of 3 s.
        slow = max(0, second - 5)
        recent = window.add(Totals(ttft_s_sum=second + 2.0 * slow, ttft_count=float(second)), now=float(second))
    assert recent.ttft_ms == 3000.0


def test_without_traffic_means_stay_and_rates_fall_to_zero() -> None:
    window = CounterWindow(2.0)
    window.add(Totals(), now=0.0)
    busy = Totals(ttft_s_sum=1.0, ttft_count=2.0, generation_tokens=10.0, prefix_hits=1.0, prefix_queries=4.0)
    assert window.add(busy, now=1.0).generation_tokens_per_s == 10.0
    for second in range(2, 10):
        recent = window.add(busy, now=float(second))
    assert recent == Recent(ttft_ms=500.0, prefix_hit_rate=0.25)


def test_the_window_keeps_no_more_than_it_needs() -> None:
    window = CounterWindow(1.0)
    for tick in range(1000):
        window.add(Totals(), now=tick * 0.1)
    assert window.kept_len <= 13


def test_totals_that_fall_are_those_of_another_engine() -> None:
    window = CounterWindow(5.0)
    assert not window.ran_backwards(Totals())
    window.add(Totals(prompt_tokens=10.0), now=0.0)
    assert not window.ran_backwards(Totals(prompt_tokens=10.0))
    assert window.ran_backwards(Totals(prompt_tokens=9.0, generation_tokens=100.0))
    window.restart()
    assert not window.ran_backwards(Totals())
    assert window.add(Totals(prompt_tokens=3.0), now=1.0) == Recent()


def test_more_hits_than_queries_are_a_share_of_one() -> None:
    window = CounterWindow(5.0)
    window.add(Totals(), now=0.0)
    assert window.add(Totals(prefix_hits=5.0, prefix_queries=4.0), now=1.0).prefix_hit_rate == 1.0


def test_two_readings_at_the_same_moment_do_not_divide_by_zero() -> None:
    window = CounterWindow(5.0)
    window.add(Totals(), now=0.0)
    assert window.add(Totals(prompt_tokens=5.0), now=0.0) == Recent()
