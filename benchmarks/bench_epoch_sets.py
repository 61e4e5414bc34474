"""What the recorded epochs are like: enough workflows, enough decode pressure, room above the bound?"""

from collections import defaultdict

import numpy as np

from benchmarks.anytime import Plan, Scene, epochs_of
from benchmarks.epochs import Epoch, committed
from benchmarks.registry import Rows, benchmark
from hexsolve_models import Decision, Problem
from hexsolve_models.bounds import lower_bound
from hexsolve_models.timetable import held_segments


@benchmark("epoch-sets", "Recorded epochs by size: workflows, KV pressure, and what a bound says of greedy?")
def epoch_sets(smoke: bool) -> Rows:
    epochs = committed()[:2] if smoke else list(epochs_of(Plan(epochs=18)))
    sets: defaultdict[tuple[int, int], list[Epoch]] = defaultdict(list)
    for epoch in epochs:
        sets[epoch.waiting, epoch.replicas].append(epoch)
    return [_row(waiting, replicas, [Scene.of(epoch) for epoch in mine]) for (waiting, replicas), mine in sets.items()]


def _row(waiting: int, replicas: int, scenes: list[Scene]) -> dict[str, object]:
    problems = [scene.problem for scene in scenes]
    bounds = [scene.greedy / max(1, lower_bound(scene.problem)) for scene in scenes]
    return {
        "waiting": waiting,
        "replicas": f"{replicas}x{replicas}",
        "epochs": len(scenes),
        "sources": len({scene.epoch.source for scene in scenes}),
        "workflows": float(np.median([problem.num_workflows for problem in problems])),
        "calls/workflow": float(np.median([problem.num_calls / problem.num_workflows for problem in problems])),
        "locked": f"{np.mean([1 - problem.is_free.mean() for problem in problems]):.1%}",
        "held": float(np.median([len(problem.held_decode) for problem in problems])),
        "KV could bind": f"{np.mean([could_bind(problem) for problem in problems]):.0%}",
        "KV delays": f"{np.mean([delayed(scene.problem, scene.hint) for scene in scenes]):.1%}",
        "greedy/bound p50": float(np.median(bounds)),
        "greedy/bound max": float(np.max(bounds)),
    }


def could_bind(problem: Problem) -> float:
    """Share of decode replicas that could not hold a fair share of the waiting calls beside what they hold at most."""
    peak = np.array([max(held_segments(problem, d)[1]) for d in range(problem.num_decode)])
    fair = problem.kv_blocks.sum() * problem.kv_capacity / problem.kv_capacity.sum()
    return float(np.mean(peak + fair > problem.kv_capacity))


def delayed(problem: Problem, decision: Decision) -> float:
    """Share of free calls whose KV waits for room at the decode replica."""
    late = []
    for c in np.flatnonzero(problem.is_free).tolist():
        p, d = int(decision.prefill[c]), int(decision.decode[c])
        arrival = decision.prefill_start[c] + problem.prefill_ticks[c, p] + problem.transfer(c)[p, d]
        late.append(decision.decode_start[c] > arrival)
    return float(np.mean(late)) if late else 0.0
