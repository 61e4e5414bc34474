"""Solver epochs: is the budget kept, and how often and by how much is the greedy plan beaten?"""

import time
from collections import Counter

import numpy as np

from benchmarks.registry import Rows, benchmark
from benchmarks.scenes import busy_snapshot, recorded_snapshots
from hexsolve.policies.solver import SolverPolicy

BUDGETS_MS = (20.0, 50.0, 200.0)


@benchmark("solver-epoch", "Does a solver epoch keep its budget, and how often does it beat greedy?")
def solver_epoch(smoke: bool) -> Rows:
    rows: Rows = []
    snapshots = recorded_snapshots(4 if smoke else 32, 3 if smoke else 200)
    for budget_ms in BUDGETS_MS:
        policy = SolverPolicy(budget_ms=budget_ms)
        policy.plan(busy_snapshot(8, 8, 8, seed=999))
        policy.outcomes = Counter()
        wall, gain = [], []
        for snapshot in snapshots:
            time.sleep(0.01)  # epochs of a service do not follow one another without a pause
            receipt = policy.plan(snapshot).receipt
            wall.append(receipt["wall_ms"])
            if receipt["outcome"].startswith("better"):
                gain.append(1.0 - receipt["projected"] / receipt["projected_greedy"])
        rows.append(
            {
                "budget_ms": budget_ms,
                "epochs": len(wall),
                "wall_p50_ms": float(np.median(wall)),
                "wall_p99_ms": float(np.percentile(wall, 99)),
                "late": sum(ms > 1.1 * budget_ms for ms in wall),
                "strictly_better": f"{len(gain) / len(wall):.0%}",
                "mean_gain": f"{sum(gain) / len(wall):.1%}",
                "outcomes": ", ".join(f"{name} {count}" for name, count in sorted(policy.outcomes.items())),
            }
        )
    return rows
