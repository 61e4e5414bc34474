"""Rows as a table and as JSON. Knows runs, intervals and words; runs nothing, writes no file.

With several seeds the table shows means over seeds, and below it every policy against the reference: policies of one
seed saw the same workflows and arrivals, so they are compared pair by pair, with a 95 % bootstrap interval of the mean
difference (percentile method, seeds drawn anew).
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from statistics import fmean
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hexsolve.cluster import Cluster
from hexsolve.study.run import Run
from hexsolve.workflow import Workload

SCHEMA = "hexsolve.simulate.v1"
SCALES = (1.5, 2.0, 3.0, 5.0)
SLO_SCALE = 2.0
_RESAMPLES = 10_000
_PACKAGES = ("hexsolve", "ortools", "highspy", "pulp", "numpy", "scipy", "numba", "networkx", "msgspec", "matplotlib")


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % bootstrap interval; of one seed the interval is the value itself."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Mean with its interval; the same values always give the same one."""
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(0).integers(0, len(data), (_RESAMPLES, len(data)))
    low, high = np.percentile(data[draws].mean(axis=1), [2.5, 97.5])
    return Interval(float(data.mean()), float(low), float(high))


def by_policy(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs grouped by policy, in order of first appearance."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.policy, []).append(run)
    return groups


# -- table ------------------------------------------------------------------------------------------------------------


def table(runs: Sequence[Run], scales: Sequence[float] = SCALES, slo: float = SLO_SCALE) -> Table:
    """The rich table of a study."""
    headings, rows, notes = _content(runs, scales, slo)
    result = Table(title=_title(runs), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    result.caption, result.caption_justify, result.caption_style = "\n".join(notes), "left", "dim"
    for position, heading in enumerate(headings):
        outer = position in (0, len(headings) - 1)
        result.add_column(heading, justify="left" if outer else "right", no_wrap=position == 0)
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def markdown(runs: Sequence[Run], scales: Sequence[float] = SCALES, slo: float = SLO_SCALE) -> str:
    """The same table as Markdown, with title and notes."""
    headings, rows, notes = _content(runs, scales, slo)
    rule = ["---", *["---:"] * (len(headings) - 2), "---"]
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]
    return "\n".join([f"# {_title(runs)}", "", *lines, "", *(f"- {note}" for note in notes), ""])


def _title(runs: Sequence[Run]) -> str:
    first, num_seeds = runs[0], len({run.seed for run in runs})
    what = f"{first.workload} on {first.cluster}: {first.num_workflows} workflows"
    if num_seeds == 1:
        return f"{what}, {first.num_calls} calls, seed {first.seed}"
    return f"{what} with each of {num_seeds} seeds, {first.num_calls} calls with the first"


def _content(runs: Sequence[Run], scales: Sequence[float], slo: float) -> tuple[list[str], list[list[str]], list[str]]:
    """Headings, rows of cells, notes."""
    groups = by_policy(runs)
    columns: list[tuple[str, Callable[[Run], float], str]] = [
        ("Req95", lambda run: run.req95, ".2f"),
        ("Req99", lambda run: run.req99, ".2f"),
        ("mean", lambda run: run.mean_stretch, ".2f"),
        *((f"≤{scale:g}", lambda run, scale=scale: run.attainment(scale), ".0%") for scale in scales),
        ("on time", lambda run: run.attainment(slo), ".0%"),
    ]
    rows = [
        [
            policy,
            *(f"{fmean(measure(run) for run in group):{form}}" for _, measure, form in columns),
            _latency(group),
            _outcomes(group),
        ]
        for policy, group in groups.items()
    ]
    headings = ["policy", *(name for name, _, _ in columns), "decision p50/p99 ms", "outcomes"]
    return headings, rows, _notes(groups, slo)


def _latency(group: Sequence[Run]) -> str:
    decision_ms = np.concatenate([run.decision_ms for run in group])
    p50, p99 = np.percentile(decision_ms, [50, 99]) if len(decision_ms) else (0.0, 0.0)
    return f"{p50:.2g} / {p99:.2g}" if p99 < 100 else f"{p50:.0f} / {p99:.0f}"


def _outcomes(group: Sequence[Run]) -> str:
    """Epoch outcomes in five words and how many plans were adopted."""
    seen = totals(run.outcomes for run in group)
    classes = {
        "better": seen["better"] + seen["better_optimal"],
        "greedy optimal": seen["greedy_optimal"],
        "greedy kept": seen["greedy_kept"],
        "not called": sum(count for name, count in seen.items() if name.startswith("not_called")),
        "failed": sum(count for name, count in seen.items() if name.startswith("failed")),
        "adopted": seen["plan adopted"],
    }
    return ", ".join(f"{name} {count}" for name, count in classes.items() if count) or "–"


def totals(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Counts added up by name."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _notes(groups: Mapping[str, Sequence[Run]], slo: float) -> list[str]:
    runs = [run for group in groups.values() for run in group]
    notes = [
        "stretch = response time / makespan of the workflow alone on the cluster (H_w); "
        "Req95, Req99: smallest SLO scale met by 95 %, 99 % of workflows",
        f"≤α: share of workflows with stretch at most α; on time: the same at the SLO, α = {slo:g}",
    ]
    if len({run.seed for run in runs}) > 1:
        notes.append("means over seeds; latency over all decisions, outcomes added up")
        notes += [_paired(difference) for difference in differences(runs)]
    anomalies = totals(run.anomalies for run in runs)
    if anomalies:
        notes.append(f"events the engine could not use: {_listed(anomalies)}")
    reasons = totals(run.outcomes for run in runs)
    failed = Counter({name: count for name, count in reasons.items() if name.startswith("failed")})
    if failed:
        notes.append(f"epochs without a solver plan: {_listed(failed)}")
    return notes


def _paired(difference: Mapping[str, Any]) -> str:
    """One policy against the reference, in words."""
    parts = [
        f"{label} {found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
        for label, found in (("Req95", difference["req95"]), ("Req99", difference["req99"]))
    ]
    return f"{difference['policy']} minus {difference['minus']}, paired by seed, 95 % bootstrap: {', '.join(parts)}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


# -- JSON -------------------------------------------------------------------------------------------------------------


def document(
    runs: Sequence[Run],
    arguments: Mapping[str, Any],
    cluster: Cluster,
    workloads: Mapping[int, Workload],
    scales: Sequence[float] = SCALES,
    slo: float = SLO_SCALE,
) -> dict[str, Any]:
    """Everything of a study as JSON data, schema `SCHEMA`. `workloads` by seed."""
    return {
        "schema": SCHEMA,
        "arguments": dict(arguments),
        "versions": versions(),
        "inputs": {
            "cluster": {"name": cluster.name, "sha256": cluster.digest()},
            "workloads": [
                {"name": workload.name, "seed": seed, "sha256": workload.digest()}
                for seed, workload in workloads.items()
            ],
        },
        "runs": [_run_record(run, scales, slo) for run in runs],
        "summary": summary(runs),
        "differences": differences(runs),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            found[package] = "not installed"
    return found


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Per policy: mean and interval over seeds."""
    return [
        {"policy": policy, "seeds": len(group)}
        | {name: vars(interval([measure(run) for run in group])) for name, measure in _MEASURES.items()}
        for policy, group in by_policy(runs).items()
    ]


def differences(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every policy minus the reference (``hexagent`` if it ran, else the first), paired by seed."""
    groups = by_policy(runs)
    reference = "hexagent" if "hexagent" in groups else next(iter(groups), "")
    base = {run.seed: run for run in groups.get(reference, [])}
    return [
        {"policy": policy, "minus": reference}
        | {
            name: vars(interval([measure(run) - measure(base[run.seed]) for run in group]))
            for name, measure in _MEASURES.items()
        }
        for policy, group in groups.items()
        if policy != reference
    ]


_MEASURES: dict[str, Callable[[Run], float]] = {
    "req95": lambda run: run.req95,
    "req99": lambda run: run.req99,
    "mean_stretch": lambda run: run.mean_stretch,
}


def _run_record(run: Run, scales: Sequence[float], slo: float) -> dict[str, Any]:
    return {
        "policy": run.policy,
        "cluster": run.cluster,
        "workload": run.workload,
        "seed": run.seed,
        "num_workflows": run.num_workflows,
        "num_calls": run.num_calls,
        "req95": run.req95,
        "req99": run.req99,
        "mean_stretch": run.mean_stretch,
        "attainment": {f"{scale:g}": run.attainment(scale) for scale in scales},
        "on_time": {"slo": slo, "share": run.attainment(slo)},
        "end_ms": run.end_ms,
        "decisions": {
            "count": len(run.decision_ms),
            "p50_ms": run.decision_percentile_ms(50),
            "p99_ms": run.decision_percentile_ms(99),
            "max_ms": run.decision_percentile_ms(100),
        },
        "outcomes": run.outcomes,
        "counters": run.counters,
        "anomalies": run.anomalies,
        "sim_calls_per_s": run.calls_per_cpu_s,
        "stretches": run.stretches.tolist(),
    }
