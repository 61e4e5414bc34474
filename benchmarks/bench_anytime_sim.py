"""End to end: what the portfolio is worth when whole workflows are simulated, on paired seeds."""

import time
from collections import defaultdict
from statistics import fmean

from benchmarks.registry import Rows, benchmark
from hexsolve.catalog import load_cluster
from hexsolve.study import Comparison, EngineOptions, Run, build_workload
from hexsolve.study.report import differences

CLUSTER, POLICIES = "hetero-1-llama-70b", ("hexagent", "solver")
WORKFLOWS = {"text2sql": 100, "bfcl": 200, "mixed": 60, "coding": 60}
LOADS = (0.85, 1.1)
SEEDS = range(1000, 1010)
BUDGET_MS = 50.0
CAP_S = 5400.0


@benchmark("anytime-sim", "Hetero-1 at ρ 0.85 and 1.1, paired seeds: Req95/Req99/mean, portfolio against greedy?")
def simulations(smoke: bool) -> Rows:
    workflows = dict.fromkeys(("text2sql", "bfcl"), 4) if smoke else WORKFLOWS
    found = compare(workflows, LOADS[1:] if smoke else LOADS, SEEDS[:1] if smoke else SEEDS, CAP_S)
    return [_row(*key, runs) for key, runs in found.items()]


def compare(
    workflows: dict[str, int], loads: tuple[float, ...], seeds: range, cap_s: float
) -> dict[tuple[str, float], list[Run]]:
    """(workload, ρ) -> runs of both policies, seed after seed; no seed is begun after `cap_s`."""
    started = time.monotonic()
    cluster = load_cluster(CLUSTER)
    options = EngineOptions(budget_ms=BUDGET_MS, deterministic=True)
    found: defaultdict[tuple[str, float], list[Run]] = defaultdict(list)
    for seed in seeds:
        if time.monotonic() - started > cap_s:
            break
        for name, count in workflows.items():
            for load in loads:
                workload = build_workload(name, count, seed, cluster=cluster, load=load)
                runs, _ = Comparison(cluster, {seed: workload}, POLICIES, options).run()
                found[name, load] += runs
    return dict(found)


def _row(workload: str, load: float, runs: list[Run]) -> dict[str, object]:
    greedy, solver = ([run for run in runs if run.policy == policy] for policy in POLICIES)
    (against,) = differences(runs)
    adopted = sum(run.outcomes.get("plan adopted", 0) for run in solver)
    landed = sum(count for run in solver for name, count in run.outcomes.items() if name.startswith("plan "))
    row: dict[str, object] = {"workload": workload, "ρ": load, "seeds": len(solver)}
    for title, name in (("Req95", "req95"), ("Req99", "req99"), ("mean", "mean_stretch")):
        values = [fmean(getattr(run, name) for run in group) for group in (greedy, solver)]
        row[title] = f"{values[0]:.3f} → {values[1]:.3f}"
        row[f"Δ {title}"] = f"{against[name]['mean']:+.3f} [{against[name]['low']:+.3f}, {against[name]['high']:+.3f}]"
    return row | {"plans adopted": f"{adopted} of {landed}"}
