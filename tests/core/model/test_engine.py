"""The step engine: its schedule by example, and what must hold after any sequence of calls."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infermesh.core.model.engine import PROFILES, Engine, EngineProfile, StepResult

PLAIN = EngineProfile(
    name="plain",
    step_base_ms=10.0,
    per_sequence_ms=1.0,
    per_prefill_token_ms=0.1,
    slots=3,
    kv_capacity_tokens=400,
    batch_tokens_max=100,
    block_tokens=10,
)


def _run(engine: Engine, steps_max: int = 10_000) -> list[StepResult]:
    """Step until nothing is left; every step must do something."""
    results = []
    while not engine.idle:
        result = engine.step()
        assert result.duration_ms > 0.0
        results.append(result)
        engine.settle()
        engine.check()
        assert len(results) <= steps_max
    return results


def test_a_step_costs_base_plus_sequences_plus_prefill_tokens() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=40, output_tokens=3)
    assert engine.step() == StepResult(10.0 + 1.0 + 4.0, 1, 40, (1,), (1,), (), ())
    assert engine.step() == StepResult(11.0, 1, 0, (), (), (), ())
    assert engine.step() == StepResult(11.0, 1, 0, (), (), (1,), ())
    engine.settle()
    assert engine.idle
    assert engine.step().duration_ms == 0.0


def test_a_request_for_one_token_is_first_and_finished_in_one_step() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=5, output_tokens=1)
    result = engine.step()
    assert result.first == (1,)
    assert result.finished == (1,)


def test_prefill_is_chunked_under_the_budget_and_slows_the_decodes_beside_it() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=10, output_tokens=50)
    quiet = [engine.step() for _ in range(2)][1]
    engine.submit(2, prompt_tokens=150, output_tokens=1)
    busy = engine.step()
    assert busy.prefill_tokens == 99  # The decoder took one of the hundred.
    assert busy.first == ()
    assert list(engine.generating()) == [1]
    assert busy.duration_ms == pytest.approx(10.0 + 2.0 + 9.9)
    assert busy.duration_ms > quiet.duration_ms
    last = engine.step()
    assert last.prefill_tokens == 51
    assert last.first == (2,)
    assert list(engine.generating()) == [1, 2]


def test_admission_is_first_come_first_served_and_stops_at_the_slots() -> None:
    engine = Engine(PLAIN)
    for request in range(5):
        engine.submit(request, prompt_tokens=10, output_tokens=2)
    assert engine.step().admitted == (0, 1, 2)
    assert engine.running == 3
    assert engine.queue_len == 2
    assert engine.step().finished == (0, 1, 2)
    assert engine.step().admitted == (3, 4)


def test_a_head_that_does_not_fit_into_the_cache_holds_back_those_behind_it() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=200, output_tokens=5)
    engine.submit(2, prompt_tokens=300, output_tokens=5)
    engine.submit(3, prompt_tokens=10, output_tokens=5)
    for _ in range(3):
        engine.step()
    assert engine.running == 1
    assert engine.queue_len == 2
    assert [request for result in _run(engine) for request in result.admitted] == [2, 3]
    assert engine.counters.finished == 3


def test_a_shared_prefix_is_computed_once_and_counted_as_hit() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=45, output_tokens=1, blocks=(11, 12, 13, 14))
    assert _run(engine)[0].prefill_tokens == 45
    engine.submit(2, prompt_tokens=45, output_tokens=1, blocks=(11, 12, 13, 99))
    assert _run(engine)[0].prefill_tokens == 15
    assert engine.counters.prefix_query_tokens == 90
    assert engine.counters.prefix_hit_tokens == 30


def test_a_prompt_that_is_wholly_known_still_computes_its_last_block() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=40, output_tokens=1, blocks=(1, 2, 3, 4))
    _run(engine)
    engine.submit(2, prompt_tokens=40, output_tokens=1, blocks=(1, 2, 3, 4))
    assert _run(engine)[0].prefill_tokens == 10
    engine.submit(3, prompt_tokens=41, output_tokens=1, blocks=(1, 2, 3, 4))
    assert _run(engine)[0].prefill_tokens == 1
    assert engine.cache.idle == 4


def test_a_request_of_the_same_step_shares_what_the_first_computes() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=30, output_tokens=2, blocks=(1, 2, 3))
    engine.submit(2, prompt_tokens=35, output_tokens=2, blocks=(1, 2, 3))
    assert engine.step().prefill_tokens == 35
    assert engine.cached_tokens(2) == 30
    assert engine.cache.used == 4


def test_idle_prefixes_are_evicted_oldest_first_and_their_tails_before_their_heads() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=201, output_tokens=1, blocks=tuple(range(100, 120)))
    _run(engine)
    engine.submit(2, prompt_tokens=250, output_tokens=1)  # 25 of 40 blocks: 5 of the 20 idle must go.
    _run(engine)
    engine.submit(3, prompt_tokens=201, output_tokens=1, blocks=tuple(range(100, 120)))
    engine.step()
    assert engine.cached_tokens(3) == 150


def test_resetting_the_prefix_cache_forgets_idle_prefixes() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=21, output_tokens=1, blocks=(1, 2))
    _run(engine)
    engine.reset_prefix_cache()
    engine.submit(2, prompt_tokens=21, output_tokens=1, blocks=(1, 2))
    assert _run(engine)[0].prefill_tokens == 21


def test_when_the_cache_is_full_the_newest_is_preempted_and_recomputed_to_its_end() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=200, output_tokens=120)
    engine.submit(2, prompt_tokens=150, output_tokens=120)
    tokens: Counter[int] = Counter()
    firsts: list[int] = []
    preempted: list[int] = []
    while not engine.idle:
        result = engine.step()
        tokens.update(engine.generating())
        firsts += result.first
        preempted += result.preempted
        if result.preempted:
            assert result.admitted == ()
        engine.settle()
        engine.check()
    assert preempted
    assert set(preempted) == {2}
    assert engine.counters.preemptions == len(preempted)
    assert tokens == {1: 120, 2: 120}
    assert firsts == [1, 2]
    assert engine.counters.prompt_tokens == 350
    assert engine.counters.generation_tokens == 240
    assert engine.kv_usage == 0.0


def test_an_abort_takes_effect_at_the_end_of_the_step_under_way() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=10, output_tokens=50)
    engine.step()
    assert engine.abort(1)
    assert not engine.abort(1)
    assert engine.running == 1
    engine.settle()
    assert engine.running == 0
    assert engine.idle
    assert engine.cache.used == 0
    assert engine.counters.aborted == 1


def test_an_abort_between_steps_takes_effect_at_once() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=10, output_tokens=50)
    assert engine.abort(1)
    assert engine.idle
    assert engine.queue_len == 0


def test_an_abort_that_comes_with_the_last_step_loses_to_the_end() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=10, output_tokens=1)
    assert engine.step().finished == (1,)
    assert engine.abort(1)
    engine.settle()
    assert (engine.counters.finished, engine.counters.aborted) == (1, 0)
    assert not engine.abort(1)


def test_an_aborted_waiter_never_runs_and_frees_its_place_in_the_queue() -> None:
    engine = Engine(PLAIN)
    for request in range(4):
        engine.submit(request, prompt_tokens=10, output_tokens=5)
    engine.step()
    engine.abort(3)
    assert engine.queue_len == 1
    engine.settle()
    assert engine.queue_len == 0
    assert all(3 not in result.admitted for result in _run(engine))


def test_waiters_that_give_up_do_not_pile_up_behind_a_blocked_head() -> None:
    engine = Engine(PLAIN)
    engine.submit(0, prompt_tokens=300, output_tokens=90)
    engine.step()
    engine.submit(1, prompt_tokens=300, output_tokens=5)
    for request in range(2, 1_000):
        engine.submit(request, prompt_tokens=10, output_tokens=5)
        engine.settle()
        engine.abort(request)
    assert engine.queue_len == 1
    assert len(engine._waiting) < 100
    assert [id_ for result in _run(engine) for id_ in result.finished] == [0, 1]


def test_what_can_never_fit_is_told_apart_before_it_is_submitted() -> None:
    engine = Engine(PLAIN)
    assert engine.fits(380, 20)
    assert not engine.fits(381, 20)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_lone_request_meets_the_least_prefill_of_its_profile(name: str) -> None:
    profile = PROFILES[name]
    engine = Engine(profile)
    prompt = min(10_000, profile.kv_capacity_tokens // 2)
    engine.submit(1, prompt_tokens=prompt, output_tokens=1)
    assert sum(result.duration_ms for result in _run(engine)) == pytest.approx(profile.least_prefill_ms(prompt))


def test_speed_divides_durations_and_keeps_capacities() -> None:
    fast = PROFILES["h100"].at_speed(2.0)
    assert fast.step_ms(10, 100) == pytest.approx(PROFILES["h100"].step_ms(10, 100) / 2)
    assert fast.kv_blocks == PROFILES["h100"].kv_blocks == 19_208


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slots": 0}, "slots=0"),
        ({"slots": 9_000}, "slots=9000"),
        ({"step_base_ms": 0.0}, "the base above 0"),
        ({"per_sequence_ms": float("nan")}, "finite"),
        ({"block_tokens": 0}, "block_tokens=0"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(change: dict[str, float], words: str) -> None:
    fields = {name: getattr(PROFILES["h100"], name) for name in PROFILES["h100"].__struct_fields__}
    with pytest.raises(ValueError, match=words):
        EngineProfile(**{**fields, **change})


def test_skipping_equal_steps_is_the_same_as_taking_them() -> None:
    def build() -> Engine:
        engine = Engine(PLAIN)
        engine.submit(1, prompt_tokens=25, output_tokens=70)
        engine.submit(2, prompt_tokens=31, output_tokens=60)
        engine.submit(3, prompt_tokens=12, output_tokens=90)
        engine.submit(4, prompt_tokens=12, output_tokens=9)
        return engine

    slow, fast = build(), build()
    slow_ms = sum(result.duration_ms for result in _run(slow))
    fast_ms = 0.0
    calls = 0
    while not fast.idle:
        result = fast.step()
        ahead = fast.ahead()
        fast.skip(ahead)
        fast_ms += result.duration_ms * (1 + ahead)
        fast.settle()
        fast.check()
        calls += 1
    assert fast_ms == pytest.approx(slow_ms)
    assert calls < slow.counters.steps // 4
    assert _totals(fast) == _totals(slow)


def test_nothing_is_ahead_once_a_request_came_or_went_in_the_step() -> None:
    engine = Engine(PLAIN)
    engine.submit(1, prompt_tokens=10, output_tokens=50)
    engine.step()
    assert engine.ahead() == 0  # A prefill step.
    engine.step()
    assert engine.ahead() > 0
    engine.submit(2, prompt_tokens=10, output_tokens=50)
    assert engine.ahead() == 0


def _totals(engine: Engine) -> dict[str, int]:
    return {name: getattr(engine.counters, name) for name in engine.counters.__slots__}


_REQUEST = st.tuples(
    st.just("submit"),
    st.integers(min_value=1, max_value=120),  # Prompt tokens.
    st.integers(min_value=1, max_value=60),  # Output tokens.
    st.integers(min_value=0, max_value=3),  # Which prefix.
)
_ABORT = st.tuples(st.just("abort"), st.integers(min_value=0, max_value=30), st.just(0), st.just(0))
_STEP = st.tuples(st.just("step"), st.integers(min_value=1, max_value=9), st.just(0), st.just(0))


class _Ledger:
    """What each request got, checked as it goes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.wanted: dict[int, int] = {}
        self.prompt: dict[int, int] = {}
        self.tokens: Counter[int] = Counter()
        self.ends: Counter[int] = Counter()
        self.firsts: Counter[int] = Counter()
        self.waited_ms: dict[int, float] = {}

    def submit(self, prompt: int, output: int, prefix: int) -> None:
        request = len(self.wanted)
        blocks = tuple(prefix * 1_000 + index for index in range(prompt // 10))
        self.wanted[request], self.prompt[request] = output, prompt
        self.waited_ms[request] = 0.0
        self.engine.submit(request, prompt_tokens=prompt, output_tokens=output, blocks=blocks)

    def step(self) -> None:
        result = self.engine.step()
        for request in self.waited_ms.keys() - self.firsts.keys() - self.ends.keys():
            self.waited_ms[request] += result.duration_ms
        self.tokens.update(self.engine.generating())
        self.firsts.update(result.first)
        for request in result.first:
            cached = self.engine.cached_tokens(request)
            least = self.engine.profile.least_prefill_ms(self.prompt[request], cached)
            assert self.waited_ms[request] >= least - 1e-9
        self.ends.update(result.finished)
        self.engine.check()


@settings(max_examples=150, deadline=None)
@given(
    calls=st.lists(st.one_of(_REQUEST, _STEP, _ABORT), max_size=60),
    kv_tokens=st.integers(min_value=180, max_value=600),
)
def test_whatever_is_asked_every_request_settles_once_and_every_block_comes_back(
    calls: list[tuple[str, int, int, int]], kv_tokens: int
) -> None:
    profile = EngineProfile(
        name="drawn",
        step_base_ms=10.0,
        per_sequence_ms=1.0,
        per_prefill_token_ms=0.1,
        slots=4,
        kv_capacity_tokens=kv_tokens,
        batch_tokens_max=50,
        block_tokens=10,
    )
    engine = Engine(profile)
    ledger = _Ledger(engine)
    aborted: set[int] = set()
    for call, one, two, three in calls:
        if call == "submit":
            ledger.submit(one, two, three)
        elif call == "abort" and engine.abort(one):
            aborted.add(one)
        elif call == "step":
            for _ in range(one):
                ledger.step()
        engine.check()
    while not engine.idle:
        ledger.step()
        engine.settle()
    finished = set(ledger.ends)
    assert set(ledger.ends.values()) <= {1}
    assert finished | aborted == set(ledger.wanted)
    assert all(ledger.tokens[request] == ledger.wanted[request] for request in finished)
    assert all(ledger.firsts[request] == 1 for request in finished)
    assert engine.counters.finished == len(finished)
    assert engine.counters.finished + engine.counters.aborted == len(ledger.wanted)
    assert engine.cache.used == 0
    assert engine.running == engine.queue_len == 0


@settings(max_examples=100, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(1, 120), st.integers(1, 60), st.integers(0, 30)), min_size=1, max_size=12),
    kv_tokens=st.integers(min_value=180, max_value=600),
)
def test_skipping_gives_each_request_its_first_and_last_token_at_the_same_moment(
    requests: list[tuple[int, int, int]], kv_tokens: int
) -> None:
    """`requests`: prompt tokens, output tokens, and how many steps pass before the next one comes."""
    profile = msgspec.structs.replace(PLAIN, kv_capacity_tokens=kv_tokens)
    assert _moments(Engine(profile), requests, skipping=True) == _moments(Engine(profile), requests, skipping=False)


def _moments(engine: Engine, requests: list[tuple[int, int, int]], *, skipping: bool) -> dict[tuple[str, int], float]:
    """When each request had its first and its last token, in steps and milliseconds of engine time."""
    moments: dict[tuple[str, int], float] = {}
    now_ms = 0.0

    def take(steps_max: int) -> int:
        nonlocal now_ms
        result = engine.step()
        skipped = min(engine.ahead(), steps_max - 1) if skipping else 0
        engine.skip(skipped)
        now_ms = round(now_ms + result.duration_ms * (1 + skipped), 6)
        for kind, ids in (("first", result.first), ("finished", result.finished)):
            for request in ids:
                moments[kind, request] = now_ms
        engine.settle()
        engine.check()
        return 1 + skipped

    for number, (prompt, output, steps) in enumerate(requests):
        engine.submit(number, prompt_tokens=prompt, output_tokens=output)
        while steps > 0 and not engine.idle:
            steps -= take(steps)
    while not engine.idle:
        take(1_000)
    return moments
