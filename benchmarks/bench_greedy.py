"""Wall time of one greedy decision, snapshot given."""

import numpy as np

from benchmarks.registry import Rows, benchmark
from benchmarks.scenes import busy_snapshot
from benchmarks.timing import wall_ms
from hexsolve.policies.hexagent import HexAgent

SIZES = ((64, 8, 8, 1.0), (256, 16, 16, 5.0), (1024, 64, 64, 50.0))


@benchmark("greedy-decision", "How long does one HexAGenT greedy plan take?")
def greedy_decision(smoke: bool) -> Rows:
    rows: Rows = []
    policy = HexAgent()
    for waiting, num_prefill, num_decode, target_ms in SIZES[:1] if smoke else SIZES:
        times = []
        for seed in range(1 if smoke else 5):
            snapshot = busy_snapshot(
                waiting, num_prefill, num_decode, running=20 if num_decode == 64 else 50, seed=seed
            )
            times.append(wall_ms(lambda s=snapshot: policy.plan(s), 5 if smoke else 100))
        all_ms = np.concatenate(times)
        rows.append(
            {
                "waiting": waiting,
                "replicas": f"{num_prefill}x{num_decode}",
                "p50_ms": float(np.median(all_ms)),
                "p99_ms": float(np.percentile(all_ms, 99)),
                "target_p99_ms": target_ms,
            }
        )
    return rows
