"""From the arms of all rounds to ratios and medians, and the tables that a person reads. Pure.

Ratios are taken within a round, where the slice, the seed and the state of the machine are the same, and their median
is over the rounds. A cell with one arm whose books do not add up has no figures.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from infermesh.sim.report import FleetReport
from tests.bench.replay.arm import Arm
from tests.bench.replay.slices import Slice

FOREIGN_CORES_MAX = 0.3  # Above this, the machine's other work is in the figures.
SEND_LAG_P99_MAX_MS = 50.0  # So late, and the client is measured as much as the mesh.


class Contest(msgspec.Struct, frozen=True, kw_only=True):
    """One trace at one load: a slice for each round, played through every policy."""

    trace: str
    load: float
    baseline: str
    slices: list[Slice]
    arms: list[Arm]
    foretold: list[dict[str, FleetReport]]  # For each round, by policy; empty: not simulated.

    def of(self, policy: str) -> list[Arm]:
        return sorted((arm for arm in self.arms if arm.policy == policy), key=lambda arm: arm.round)

    @property
    def policies(self) -> list[str]:
        return list(dict.fromkeys(arm.policy for arm in sorted(self.arms, key=lambda arm: arm.round)))

    @property
    def faults(self) -> list[str]:
        return [f"{arm.policy}, round {arm.round + 1}: {fault}" for arm in self.arms for fault in arm.faults]


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's figure over the baseline's, below 1.0 where the policy has less of it."""

    rounds: list[float]
    median: float
    foretold: float | None  # By the simulator, the median too.


Ratios = dict[str, dict[str, Ratio]]  # policy -> figure -> ratio

_MEASURED: dict[str, Callable[[Arm], float]] = {
    "ttft_p50_ms": lambda arm: arm.clients.ttft_ms.p50,
    "ttft_p90_ms": lambda arm: arm.clients.ttft_ms.p90,
    "ttft_p99_ms": lambda arm: arm.clients.ttft_ms.p99,
    "gap_p50_ms": lambda arm: arm.clients.itl_ms.p50,
    "gap_p99_ms": lambda arm: arm.clients.itl_ms.p99,
    "total_p50_ms": lambda arm: arm.clients.total_ms.p50,
    "total_p90_ms": lambda arm: arm.clients.total_ms.p90,
    "goodput": lambda arm: arm.clients.goodput.share,
    "completion_rate": lambda arm: arm.clients.completion_rate,
    "prefix_hit_rate": lambda arm: arm.hit_rate,
}

# The simulator reports each request's mean gap, not every gap: those are not the same figure.
_FORETOLD: dict[str, Callable[[FleetReport], float]] = {
    "ttft_p50_ms": lambda report: report.ttft_ms.p50,
    "ttft_p90_ms": lambda report: report.ttft_ms.p90,
    "ttft_p99_ms": lambda report: report.ttft_ms.p99,
    "total_p50_ms": lambda report: report.total_ms.p50,
    "total_p90_ms": lambda report: report.total_ms.p90,
    "goodput": lambda report: report.goodput,
    "prefix_hit_rate": lambda report: report.prefix_hit_rate,
}

_SHOWN_RATIOS = ("ttft_p50_ms", "ttft_p90_ms", "ttft_p99_ms", "gap_p50_ms", "gap_p99_ms", "total_p90_ms", "goodput")


def medians_of(arms: Sequence[Arm]) -> dict[str, float]:
    return {name: statistics.median(figure(arm) for arm in arms) for name, figure in _MEASURED.items()}


def ratios_of(contest: Contest) -> Ratios:
    assert not contest.faults, "figures are made of books that add up"
    base = contest.of(contest.baseline)
    found: Ratios = {}
    for policy in contest.policies:
        if policy == contest.baseline:
            continue
        arms = contest.of(policy)
        found[policy] = {}
        for name, figure in _MEASURED.items():
            rounds = [_over(figure(arm), figure(other)) for arm, other in zip(arms, base, strict=True)]
            found[policy][name] = Ratio(
                rounds=rounds,
                median=round(statistics.median(rounds), 3),
                foretold=_foretold(contest, policy, name),
            )
    return found


def _foretold(contest: Contest, policy: str, name: str) -> float | None:
    figure = _FORETOLD.get(name)
    if figure is None or not contest.foretold:
        return None
    return round(
        statistics.median(
            _over(figure(reports[policy]), figure(reports[contest.baseline])) for reports in contest.foretold
        ),
        3,
    )


def _over(value: float, base: float) -> float:
    """Equal figures are 1.0, two zeros among them; anything over nothing is told as it is."""
    return round(value / base, 3) if base else (1.0 if value == base else float("inf"))


def document_of(contest: Contest) -> dict[str, object]:
    """Everything, for machines."""
    valid = not contest.faults
    return {
        "trace": contest.trace,
        "load": contest.load,
        "baseline": contest.baseline,
        "valid": valid,
        "faults": contest.faults,
        "slices": [
            {
                **{name: getattr(piece, name) for name in Slice.__struct_fields__ if name != "arrivals"},
                "requests": len(piece.arrivals),
            }
            for piece in contest.slices
        ],
        "arms": [{**msgspec.to_builtins(arm), "prefix_hit_rate": arm.hit_rate} for arm in contest.arms],
        "medians": {policy: medians_of(contest.of(policy)) for policy in contest.policies} if valid else {},
        "ratios": msgspec.to_builtins(ratios_of(contest)) if valid else {},
        "foretold": msgspec.to_builtins(contest.foretold),
    }


def render(contest: Contest, profiles: Mapping[str, str]) -> str:
    """The tables of one contest. `profiles` says what each GPU node is."""
    lines = [_title(contest), ""]
    if contest.faults:
        return "\n".join([*lines, *(f"INVALID {fault}" for fault in contest.faults), ""])
    head = ["policy", "done", "ttft p50", "p90", "p99", "gap p50", "p99", "total p50", "p90", "goodput", "hits"]
    head += ["hedges won/fired", *(f"{node} {profile}" for node, profile in profiles.items())]
    lines += _grid(head, [_row(policy, contest.of(policy), list(profiles)) for policy in contest.policies])
    ratios = ratios_of(contest)
    lines.append(f"x {contest.baseline}, each round [median] (simulated)")
    lines += _grid(
        ["policy", *(name.removesuffix("_ms").replace("_", " ") for name in _SHOWN_RATIOS)],
        [[policy, *(_ratio(found[name]) for name in _SHOWN_RATIOS)] for policy, found in ratios.items()],
    )
    lines += _loss_lines(contest)
    lines += _cpu_lines(contest)
    return "\n".join(lines) + "\n"


def _title(contest: Contest) -> str:
    sizes = "/".join(f"{len(piece.arrivals):,}" for piece in contest.slices)
    spans = "/".join(f"{piece.span_s:.0f}" for piece in contest.slices)
    speeds = "/".join(f"{piece.trace_speed:.2g}" for piece in contest.slices)
    return (
        f"{contest.trace} at load {contest.load:g}: {sizes} requests in {spans} s, {speeds} times as fast as recorded; "
        "medians over the rounds, ms"
    )


def _row(policy: str, arms: Sequence[Arm], nodes: Sequence[str]) -> list[str]:
    figures = medians_of(arms)
    fired, won = (sum(getattr(arm.router.hedges, name) for arm in arms) for name in ("fired", "won"))
    return [
        policy,
        f"{min(arm.clients.completion_rate for arm in arms):.1%}",
        *(f"{figures[name]:,.0f}" for name in ("ttft_p50_ms", "ttft_p90_ms", "ttft_p99_ms")),
        *(f"{figures[name]:,.1f}" for name in ("gap_p50_ms", "gap_p99_ms")),
        *(f"{figures[name]:,.0f}" for name in ("total_p50_ms", "total_p90_ms")),
        f"{figures['goodput']:.1%}",
        f"{figures['prefix_hit_rate']:.1%}",
        f"{won}/{fired}",
        *(_share(arms, node) for node in nodes),
    ]


def _share(arms: Sequence[Arm], node: str) -> str:
    """Of all attempts, and how busy that made the engine."""
    chosen = sum(arm.nodes[node].chosen for arm in arms)
    of_all = sum(other.chosen for arm in arms for other in arm.nodes.values())
    busy = statistics.mean(arm.nodes[node].busy for arm in arms)
    return f"{chosen / max(1, of_all):.0%}, busy {busy:.0%}"


def _ratio(ratio: Ratio) -> str:
    rounds = " ".join(f"{value:.2f}" for value in ratio.rounds)
    foretold = f" ({ratio.foretold:.2f})" if ratio.foretold is not None else ""
    return f"{rounds} [{ratio.median:.2f}]{foretold}"


def _loss_lines(contest: Contest) -> list[str]:
    """What did not complete, and why: the percentiles are without it."""
    lines = []
    for policy in contest.policies:
        reports = [arm.clients for arm in contest.of(policy)]
        causes = Counter[str]()
        for report in reports:
            for counted in report.causes.values():
                causes.update(counted)
        examples = {cause: text for report in reports for cause, text in report.examples.items()}
        for cause, count in causes.most_common():
            lines.append(f"{policy}: {count} not completed, {cause}: {examples.get(cause, '')}".rstrip(": "))
    return lines


def _cpu_lines(contest: Contest) -> list[str]:
    arms = contest.arms
    client, router, gpus, foreign = (
        statistics.mean(getattr(arm.cpu, name) for arm in arms) for name in ("client", "router", "gpus", "foreign")
    )
    lag = max(arm.clients.send_lag_ms.p99 for arm in arms)
    lines = [
        (
            f"cores used of {arms[0].cpu.cores}: client {client:.2f}, router {router:.2f}, GPU nodes {gpus:.2f}, "
            f"others {foreign:.2f}; sent late by at most {lag:.1f} ms in 99 of 100"
        )
    ]
    worst = max(arm.cpu.foreign for arm in arms)
    if worst > FOREIGN_CORES_MAX:
        lines.append(f"NOISY: other work used up to {worst:.2f} cores in an arm; ratios within a round still compare")
    if lag > SEND_LAG_P99_MAX_MS:
        lines.append("LATE: the machine could not send in time; lower --speed, or use a quiet machine")
    return lines


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in [head, *rows]]
    return [*(line.rstrip() for line in lines), ""]
