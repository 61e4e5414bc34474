"""Which ticks and replicas an optimum can use. Knows bounds and an incumbent's cost; knows no solver.

Proofs in models/README.md §4.1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hexsolve_models.alone import Standalone, cost_at, standalone, workflow_costs
from hexsolve_models.decision import Decision
from hexsolve_models.objective import MAX_COEFFICIENT, Ints, Objective
from hexsolve_models.problem import RATE_BLOCKS, Problem

UNBOUNDED = 2**62
_MOST_SLACK = 2**61  # added to a cost it stays in int64
Options = npt.NDArray[np.bool_]  # [call, replica]


@dataclass(frozen=True)
class Windows:
    """Ticks between which some optimum (no dearer than the incumbent) finishes: [N] calls, [W] workflows."""

    alone: Standalone
    latest: list[int]
    earliest_workflow: list[int]
    latest_workflow: list[int]


def time_windows(problem: Problem, incumbent: Decision | None, alone: Standalone | None = None) -> Windows:
    """latest[c], F_max[w]: no optimum needs to finish later (README §4.1).

    Serial: after T0, when everything released, busy or held has ended, some waiting call is always in prefill,
    transfer, decode or the lag behind one it waits for, else the rest could move left; so T0 + the longest four of
    every call. Cost: f_w(F_w) and call_weight_c * f_c may exceed their standalone values by at most the incumbent's
    cost - the standalone bound, and under a cap by at most its limit - the standalone cost. Edges: a call that others
    wait for has to be done in time for them.
    """
    alone = alone or standalone(problem)
    horizon = _serial_horizon(problem)
    limits = list(problem.caps)
    if incumbent is not None:
        finish = incumbent.decode_finish(problem)
        horizon = max(horizon, int(finish.max(initial=0)))
        limits.append((problem.objective, cost_at(problem, finish)))
    latest = np.full(problem.num_calls, horizon, dtype=np.int64)
    for objective, limit in limits:
        np.minimum(latest, _latest_within(problem, alone, objective, limit), out=latest)
    _before_children(problem, alone, latest)
    np.maximum(latest, alone.finish, out=latest)  # caps that nothing meets: no window is empty, the caps say it
    tail = problem.objective.tail_ticks
    latest_workflow = np.zeros(problem.num_workflows, dtype=np.int64)
    np.maximum.at(latest_workflow, problem.workflow, latest + tail)
    return Windows(alone, latest.tolist(), alone.workflow_finish(problem).tolist(), latest_workflow.tolist())


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


def latest_finishes(objective: Objective, max_cost: npt.NDArray[Any]) -> Ints:
    """[W] the largest F with f_w(F) <= max_cost[w], as `Objective.latest_finish`; `UNBOUNDED` if there is none."""
    due, weight = objective.due_tick, objective.late_weight
    late = _latest_convex(objective, max_cost - weight)
    on_time = np.minimum(due, _latest_convex(objective, max_cost))
    return np.where((weight == 0) | (late > due), late, on_time)


def _latest_convex(objective: Objective, max_cost: npt.NDArray[Any]) -> Ints:
    spare = max_cost[:, None] - objective.intercept
    flat = np.where(spare < 0, -MAX_COEFFICIENT, UNBOUNDED)
    latest = np.where(objective.slope > 0, spare // np.maximum(1, objective.slope), flat).min(axis=1)
    capped: Ints = np.minimum(latest, UNBOUNDED).astype(np.int64)
    return capped


def _latest_within(problem: Problem, alone: Standalone, objective: Objective, limit: int) -> Ints:
    """[N] latest finishes at which the objective can stay within `limit`, all else standalone."""
    slack = limit - cost_at(problem, alone.finish, objective)
    if abs(slack) >= _MOST_SLACK:
        return np.full(problem.num_calls, UNBOUNDED, dtype=np.int64)
    floor = workflow_costs(objective, alone.workflow_finish(problem))
    if objective.aggregate == "max":
        floor = np.full_like(floor, floor.max(initial=0))
    by_workflow = latest_finishes(objective, floor + slack)[problem.workflow] - objective.tail_ticks
    weight = objective.call_weight
    by_weight = np.where(weight > 0, alone.finish + slack // np.maximum(1, weight), UNBOUNDED)
    latest: Ints = np.minimum(by_workflow, by_weight)
    return latest


def _before_children(problem: Problem, alone: Standalone, latest: Ints) -> None:
    """latest[before] <= latest[after] - lag - the least service of `after`, from the last calls to the first."""
    if not problem.edge_before.size:
        return
    shortest = np.where(problem.prefill_allowed, problem.prefill_ticks, UNBOUNDED).min(axis=1)
    service = (shortest + alone.after_prefill).tolist()
    flat, at = problem.flat, latest.tolist()
    first, before, lag = flat.wait_from.tolist(), flat.wait_for.tolist(), flat.wait_lag.tolist()
    for after in problem.topological[::-1].tolist():
        for e in range(first[after], first[after + 1]):
            at[before[e]] = min(at[before[e]], at[after] - lag[e] - service[after])
    latest[:] = at


def _nearest(options: Options, finish: Ints, chosen: Ints | None, candidates: int | None) -> Options:
    if candidates is None or candidates >= options.shape[1]:
        return options
    rank = np.argsort(np.argsort(finish, axis=1, kind="stable"), axis=1)
    kept = rank < candidates
    if chosen is not None:
        kept |= chosen[:, None] == np.arange(options.shape[1])
    return options & kept


def _serial_horizon(problem: Problem) -> int:
    flat = problem.flat
    could_decode = flat.decode > 0
    crowd = np.maximum(0, could_decode.sum(axis=0) - flat.uncrowded)
    decode = np.where(could_decode, flat.decode + flat.crowding * crowd, 0).max(axis=1)
    moved = flat.moved * int(flat.rate.max())
    moving = np.where(problem.is_free, int(flat.base.max()) - (-moved // RATE_BLOCKS), 0)
    waiting = np.zeros(problem.num_calls, dtype=np.int64)
    np.maximum.at(waiting, problem.edge_after, problem.edge_lag)
    longest = flat.prefill.max(axis=1, initial=0) + moving + decode + waiting
    quiet = max(int(ticks.max(initial=0)) for ticks in (flat.release, flat.free_tick, problem.held_end))
    return quiet + int(longest.sum())
