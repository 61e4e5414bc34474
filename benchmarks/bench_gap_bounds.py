"""Certified bounds of whole instances: how far below the best policy, what binds, how long do they take?"""

import resource
import time
from dataclasses import replace

from benchmarks.registry import Rows, benchmark
from hexsolve.catalog import load_cluster
from hexsolve.cluster import Cluster
from hexsolve.offline import offline_problem
from hexsolve.study import EngineOptions, build_workload, run_policy, standalone_ms
from hexsolve_models.offline.bounds import InstanceBounds, RatioBound

POLICIES = ("workflow-fcfs", "workflow-llf", "hexagent")
SEED = 1000  # a reporting seed; nothing was tuned on it
WORKLOADS = ("text2sql", "bfcl")
LOADS = (0.7, 1.0, 1.2)
FIGURES = ("req95", "req99", "max", "mean")


@benchmark("gap-bounds-demo", "400 workflows, 2P+2D, ρ = 0.7, 1, 1.2: how wide is [bound, best policy], what binds?")
def gap_bounds_demo(smoke: bool) -> Rows:
    return _rows("demo", smoke)


@benchmark(
    "gap-bounds-hetero", "400 workflows, Hetero-1, ρ = 0.7, 1, 1.2: how wide is [bound, best policy], what binds?"
)
def gap_bounds_hetero(smoke: bool) -> Rows:
    return _rows("hetero-1-llama-70b", smoke)


@benchmark(
    "gap-bounds-large",
    "1,000 text-to-SQL workflows, 16,000 calls, 8P+8D and 16P+16D: time and memory of bounds?",
)
def gap_bounds_large(smoke: bool) -> Rows:
    workflows, widths = (4, (1,)) if smoke else (1000, (1, 2))
    return [_timed(_repeated(load_cluster("hetero-1-llama-70b"), times), workflows) for times in widths]


def _rows(cluster_name: str, smoke: bool) -> Rows:
    cluster, cases = load_cluster(cluster_name), [(name, load) for name in WORKLOADS for load in LOADS]
    return [_row(cluster, name, 8 if smoke else 400, load) for name, load in (cases[:1] if smoke else cases)]


def _row(cluster: Cluster, name: str, workflows: int, load: float) -> dict[str, object]:
    workload = build_workload(name, workflows, SEED, cluster=cluster, load=load)
    alone_ms = standalone_ms(cluster, workload)
    options = EngineOptions(deterministic=True)
    runs = [run_policy(cluster, workload, policy, alone_ms, engine_options=options) for policy in POLICIES]
    best = {
        "req95": min(run.req95 for run in runs),
        "req99": min(run.req99 for run in runs),
        "max": min(float(run.stretches.max()) for run in runs),
        "mean": min(run.mean_stretch for run in runs),
    }
    started = time.process_time()
    bounds = _bounds(InstanceBounds(offline_problem(workload, cluster, alone_ms)))
    row: dict[str, object] = {"workload": name, "ρ": load}
    for figure in FIGURES:
        bound = bounds[figure]
        row[figure] = f"{bound.alpha:.3f} … {best[figure]:.3f} ({best[figure] / bound.alpha - 1:+.0%})"
    row["binds (req95, req99, max, mean)"] = ", ".join(bounds[figure].resource for figure in FIGURES)
    row["CPU s"] = time.process_time() - started
    return row


def _timed(cluster: Cluster, workflows: int) -> dict[str, object]:
    workload = build_workload("text2sql", workflows, SEED, cluster=cluster, load=1.2)
    alone_ms = standalone_ms(cluster, workload)
    row: dict[str, object] = {"P": cluster.num_prefill, "D": cluster.num_decode, "calls": workload.num_calls}
    started = time.process_time()
    instance = InstanceBounds(offline_problem(workload, cluster, alone_ms))
    row["build, CPU s"] = time.process_time() - started
    for figure, bound in _bounds(instance, row).items():
        row[figure] = bound.alpha
    row["peak RSS, MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def _bounds(instance: InstanceBounds, seconds: dict[str, object] | None = None) -> dict[str, RatioBound]:
    """Every figure's bound; `seconds` is told the CPU time of each."""
    ask = {
        "req95": lambda: instance.req(0.95),
        "req99": lambda: instance.req(0.99),
        "max": instance.max_stretch,
        "mean": instance.mean_stretch,
    }
    found = {}
    for figure, bound in ask.items():
        started = time.process_time()
        found[figure] = bound()
        if seconds is not None:
            seconds[f"{figure}, CPU s"] = time.process_time() - started
    return found


def _repeated(cluster: Cluster, times: int) -> Cluster:
    """The same cluster with every replica `times` times."""
    pools = {
        role: tuple(replace(replica, name=f"{replica.name}.{i}") for replica in pool for i in range(times))
        for role, pool in (("prefill", cluster.prefill), ("decode", cluster.decode))
    }
    return replace(cluster, **pools)
