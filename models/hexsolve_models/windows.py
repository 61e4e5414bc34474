"""Which ticks and replicas an optimum can use. Knows bounds and an incumbent's cost; knows no solver.

Proofs in models/README.md §4.1.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hexsolve_models.bounds import Standalone, standalone, standalone_bound
from hexsolve_models.decision import Decision
from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem
from hexsolve_models.referee import cost

UNBOUNDED = 2**62
Options = npt.NDArray[np.bool_]  # [call, replica]


@dataclass(frozen=True)
class Windows:
    """Ticks between which some optimum (no dearer than the incumbent) finishes: [N] calls, [W] workflows."""

    alone: Standalone
    latest: list[int]
    earliest_workflow: list[int]
    latest_workflow: list[int]


def time_windows(problem: Problem, incumbent: Decision | None) -> Windows:
    """latest[c], F_max[w]: no optimum needs to finish later (README §4.1).

    Serial: after T0, when everything released, busy or held has ended, some waiting call is always in prefill,
    transfer or decode, else the rest could move left; so T0 + the longest three of every call. Cost: f_w(F_w) and
    call_weight_c * f_c may exceed their standalone values by at most the incumbent's cost - the standalone bound.
    """
    alone = standalone(problem)
    earliest_workflow = alone.workflow_finish(problem).tolist()
    tail, weight = problem.objective.tail_ticks.tolist(), problem.objective.call_weight.tolist()
    horizon = _serial_horizon(problem)
    slack = UNBOUNDED
    if incumbent is not None:
        horizon = max(horizon, int(incumbent.decode_finish(problem).max(initial=0)))
        slack = cost(problem, incumbent) - standalone_bound(problem, alone)
    floor = [problem.objective.workflow_cost(w, finish) for w, finish in enumerate(earliest_workflow)]
    if problem.objective.aggregate == "max":
        floor = [max(floor, default=0)] * len(floor)
    limits = [problem.objective.latest_finish(w, floor[w] + slack) for w in range(problem.num_workflows)]
    latest = []
    for c, w in enumerate(problem.workflow.tolist()):
        by_weight = int(alone.finish[c]) + slack // weight[c] if weight[c] else UNBOUNDED
        by_workflow = UNBOUNDED if limits[w] is None else limits[w] - tail[c]
        latest.append(min(horizon, by_weight, by_workflow))
    latest_workflow = [0] * problem.num_workflows
    for c, w in enumerate(problem.workflow.tolist()):
        latest_workflow[w] = max(latest_workflow[w], latest[c] + tail[c])
    return Windows(alone, latest, earliest_workflow, latest_workflow)


def options(
    problem: Problem, windows: Windows, incumbent: Decision | None, candidates: int | None
) -> tuple[Options, Options]:
    """[N, P] and [N, D]: replicas that stay in the model."""
    latest = np.array(windows.latest, dtype=np.int64)[:, None]
    x, y = problem.prefill_allowed, problem.decode_allowed
    prefill, decode = (None, None) if incumbent is None else (incumbent.prefill, incumbent.decode)
    return (
        _nearest(x & (windows.alone.via_prefill <= latest), windows.alone.via_prefill, prefill, candidates),
        _nearest(y & (windows.alone.via_decode <= latest), windows.alone.via_decode, decode, candidates),
    )


def _nearest(options: Options, finish: Ints, chosen: Ints | None, candidates: int | None) -> Options:
    if candidates is None or candidates >= options.shape[1]:
        return options
    rank = np.argsort(np.argsort(finish, axis=1, kind="stable"), axis=1)
    kept = rank < candidates
    if chosen is not None:
        kept |= chosen[:, None] == np.arange(options.shape[1])
    return options & kept


def _serial_horizon(problem: Problem) -> int:
    longest = np.where(problem.decode_allowed, problem.decode_ticks, 0).max(axis=1, initial=0)
    prefill = np.where(problem.prefill_allowed, problem.prefill_ticks, 0).max(axis=1, initial=0)
    lag = sum(int(problem.transfer(c).max()) for c in np.flatnonzero(problem.is_free).tolist())
    quiet = max(
        int(ticks.max(initial=0)) for ticks in (problem.release_tick, problem.prefill_free_tick, problem.held_end)
    )
    return quiet + lag + int((longest + prefill).sum())
