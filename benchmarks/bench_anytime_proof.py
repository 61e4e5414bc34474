"""What the anytime solver proves: small epochs within a budget, and the late count of larger ones."""

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.anytime import REPORTING_SEED, Scene
from benchmarks.epochs import REPLICAS, Epoch, committed, recorded, sizes_of, sources
from benchmarks.registry import Rows, benchmark
from hexsolve.solve import Result, solve, warm_up
from hexsolve.workers import WorkerPool
from hexsolve_models import Problem, cost, late_count
from hexsolve_models.bounds import lower_bound

_ALPHA = 2.0  # stretch that a workflow may have; where greedy is far from it, the middle of greedy's own stretches


@dataclass(frozen=True, slots=True)
class Case:
    """Epochs of `waiting` calls, `budget_ms`, and what is to be proved of which share of them."""

    objective: str
    waiting: int
    budget_ms: float
    target: float


CASES = (
    Case("cost", 8, 50.0, 0.8),
    Case("cost", 8, 1000.0, 0.8),
    Case("cost", 16, 1000.0, 0.8),
    Case("late count", 16, 50.0, 0.9),
    Case("late count", 32, 200.0, 0.9),
    Case("late count", 64, 200.0, 0.9),
)


@benchmark("anytime-proof", "Which share of recorded epochs is proved optimal: small ones, and late counts of larger?")
def proof(smoke: bool) -> Rows:
    warm_up()
    rows: Rows = []
    with WorkerPool(1, warm_up="hexsolve.components:warm_up_natives") as pool:
        pool.wait(30.0)
        for case in CASES[:1] + CASES[3:4] if smoke else CASES:
            by_replicas = {8: committed()[:2]} if smoke else {n: _epochs(case.waiting, n) for n in REPLICAS}
            for replicas, epochs in by_replicas.items():
                if epochs:
                    rows.append(_row(case, replicas, epochs, pool))
    return rows


def _epochs(waiting: int, replicas: int) -> list[Epoch]:
    if waiting not in sizes_of(replicas):
        return []
    runs = [recorded(source, replicas, REPORTING_SEED) for source in sources()]
    return [epoch for run in runs for epoch in run if epoch.waiting == waiting]


def _row(case: Case, replicas: int, epochs: list[Epoch], pool: WorkerPool) -> dict[str, object]:
    results: list[Result] = []
    certified, greedy = [], []
    for scene in map(Scene.of, epochs):
        problem = scene.problem if case.objective == "cost" else late_counting(scene)
        greedy.append(cost(problem, scene.hint))
        certified.append(greedy[-1] <= lower_bound(problem))
        results.append(solve(problem, budget_ms=case.budget_ms, hint=scene.hint, pool=pool))
    share = float(np.mean([result.status.name == "OPTIMAL" for result in results]))
    return {
        "objective": case.objective,
        "waiting": case.waiting,
        "replicas": f"{replicas}x{replicas}",
        "budget_ms": case.budget_ms,
        "epochs": len(epochs),
        "greedy certified": f"{np.mean(certified):.0%}",
        "optimal": f"{share:.0%}",
        "target": f"{case.target:.0%}",
        "met": "yes" if share >= case.target else "NO",
        "greedy": float(np.mean(greedy)),
        "found": float(np.mean([result.objective for result in results])),
        "bound": float(np.mean([result.bound for result in results])),
        "p99_ms": float(np.percentile([result.wall_ms for result in results], 99)),
    }


def late_counting(scene: Scene) -> Problem:
    """The epoch's problem with the number of workflows beyond a stretch of α as its cost.

    α is 2, or the median of greedy's projected stretches where fewer than a tenth or more than nine tenths of them are
    beyond 2: elsewhere there is little to decide.
    """
    problem, snapshot = scene.problem, scene.snapshot
    rows, tail_ticks = snapshot.waiting[scene.positions], problem.objective.tail_ticks
    elapsed, whole = np.zeros(problem.num_workflows, dtype=np.int64), np.ones(problem.num_workflows, dtype=np.int64)
    elapsed[problem.workflow] = np.ceil(np.maximum(0.0, snapshot.now_ms - snapshot.calls["arrival_ms"][rows]))
    whole[problem.workflow] = np.ceil(snapshot.outlook[1][rows])
    finish = np.zeros(problem.num_workflows)
    np.maximum.at(finish, problem.workflow, scene.hint.decode_finish(problem) + tail_ticks)
    stretches = (elapsed + finish) / whole
    is_contested = 0.1 <= np.mean(stretches > _ALPHA) <= 0.9
    alpha = _ALPHA if is_contested else float(np.median(stretches))
    return replace(problem, objective=late_count(elapsed, whole, tail_ticks, alpha=alpha))
