"""Speed and memory of the simulator under workflow-FCFS."""

import resource
import subprocess
import sys

import numpy as np

from benchmarks.registry import Rows, benchmark
from benchmarks.timing import cpu_s
from hexsolve.arrivals import Poisson
from hexsolve.catalog import load_cluster
from hexsolve.engine import PlacementEngine
from hexsolve.generate import generate
from hexsolve.sim import simulate
from hexsolve.workflow import Workload

CLUSTER = "hetero-1-llama-70b"


def _calls_per_cpu_s(workload: Workload, policy: str) -> float:
    cluster = load_cluster(CLUSTER)
    engine = PlacementEngine(cluster, policy)
    return workload.num_calls / cpu_s(lambda: simulate(cluster, workload, engine))


@benchmark("simulator-speed", "How many calls per CPU-second does the simulator run?")
def simulator_speed(smoke: bool) -> Rows:
    rows: Rows = []
    for rate_per_s in (5.0, 12.0, 40.0):
        workload = generate("bfcl", 20 if smoke else 400, seed=1, arrivals=Poisson(rate_per_s))
        for policy in ("workflow-fcfs", "hexagent"):
            speeds = [_calls_per_cpu_s(workload, policy) for _ in range(1 if smoke else 5)]
            rows.append(
                {
                    "workload": f"bfcl {rate_per_s:g}/s",
                    "policy": policy,
                    "calls": workload.num_calls,
                    "calls_per_cpu_s": float(np.median(speeds)),
                    "target": 20_000 if policy == "workflow-fcfs" else "-",
                }
            )
    return rows


@benchmark("simulator-scaling", "Is the cost per call flat, and how much memory do 100,000 calls take?")
def simulator_scaling(smoke: bool) -> Rows:
    rows: Rows = []
    for calls in (100,) if smoke else (1_000, 10_000, 100_000):
        code = f"from benchmarks.bench_simulator import one_size; print(*one_size({calls}))"
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
        done, speed, peak_mib = output.split()
        rows.append({"calls": int(done), "calls_per_cpu_s": float(speed), "peak_rss_mib": float(peak_mib)})
    return rows


def one_size(calls: int) -> tuple[int, float, float]:
    """(calls, calls per CPU-second, peak RSS in MiB) of one run at a load below saturation, in this process."""
    workload = generate("bfcl", max(1, calls * 100 // 1075), seed=1, arrivals=Poisson(8.0))
    speed = _calls_per_cpu_s(workload, "workflow-fcfs")
    return workload.num_calls, speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
