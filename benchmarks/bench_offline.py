"""Tiny whole instances: how many are proved optimal for the largest stretch, and how soon."""

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

from benchmarks.registry import Rows, benchmark
from hexsolve.arrivals import Poisson
from hexsolve.catalog import load_cluster
from hexsolve.generate import NAMES, generate
from hexsolve.load import rate_for
from hexsolve.offline import offline_problem
from hexsolve.study.run import standalone_ms
from hexsolve.workflow import Workload
from hexsolve_models.offline import OfflineProblem
from hexsolve_models.offline.goal import MAX_STRETCH
from hexsolve_models.offline.solve import solve

MOST_WORKFLOWS, MOST_CALLS = 6, 25
LIMIT_S, WORKERS, RHO = 10.0, 2, 1.2


def tiny_instances(count: int) -> Iterator[tuple[str, int, OfflineProblem]]:
    """(workload, seed, instance): of 60 workflows of a generator the first that fit, arriving at ρ = 1.2 on 2P+2D."""
    cluster = load_cluster("demo")
    seed = made = 0
    while made < count:
        name = NAMES[seed % len(NAMES)]
        drawn = generate(name, 60, seed, Poisson(1.0))
        rate = rate_for(drawn, cluster, RHO)
        kept, calls = [], 0
        for workflow in drawn.workflows:
            if len(kept) < MOST_WORKFLOWS and calls + len(workflow.calls) <= MOST_CALLS:
                # The k-th that is kept arrives when the k-th of all did: what does not fit leaves no gap.
                arrival_ms = (drawn.workflows[len(kept)].arrival_ms - drawn.workflows[0].arrival_ms) / rate
                kept.append(replace(workflow, arrival_ms=arrival_ms))
                calls += len(workflow.calls)
        if kept:
            workload = Workload(f"{name}-{seed}", tuple(kept))
            yield name, seed, offline_problem(workload, cluster, standalone_ms(cluster, workload))
            made += 1
        seed += 1


@benchmark("offline-tiny", "Tiny whole instances: how many are proved optimal (largest stretch) within 10 s?")
def offline_tiny(smoke: bool) -> Rows:
    """A row per workload, and one for all."""
    seconds: dict[str, list[float]] = {}
    proved: dict[str, int] = {}
    for name, _, problem in tiny_instances(3 if smoke else 100):
        started = perf_counter()
        outcome = solve(problem, MAX_STRETCH, limit_s=LIMIT_S, workers=WORKERS)
        for group in (name, "all"):
            seconds.setdefault(group, []).append(perf_counter() - started)
            proved[group] = proved.get(group, 0) + (outcome.status == "OPTIMAL")
    return [
        {
            "workload": name,
            "instances": len(times),
            "proved within 10 s": proved[name],
            "median s": sorted(times)[len(times) // 2],
            "largest s": max(times),
        }
        for name, times in sorted(seconds.items(), key=lambda item: (item[0] == "all", item[0]))
    ]
