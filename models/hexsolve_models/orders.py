"""Orders worth a list schedule, all from what calls cost and take alone. Knows `Problem`; schedules
nothing.
"""

import numpy as np

from hexsolve_models.alone import NEVER, standalone, workflow_costs
from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem
from hexsolve_models.windows import latest_finishes


def static_orders(problem: Problem) -> list[Ints]:
    """[N] each, most urgent first.

    The largest cost of a tick per tick of prefill (Smith, 1956); the first workflow that could reach what the dearest
    costs (due ticks, where lateness costs); the shortest prefill. By how often they are the best of hundreds of calls.
    """
    alone, objective = standalone(problem), problem.objective
    finish = alone.workflow_finish(problem)
    cost = workflow_costs(objective, finish)
    deadline = latest_finishes(objective, np.full(cost.size, max(cost.max(initial=0), 0), dtype=object))
    if objective.late_weight.any():
        deadline = np.where(objective.due_tick >= finish, objective.due_tick, deadline)
    slack = deadline[problem.workflow] - alone.finish - objective.tail_ticks
    shortest = np.where(problem.prefill_allowed, problem.prefill_ticks, NEVER).min(axis=1)
    shortest = np.where(problem.is_free, shortest, 0)
    later = workflow_costs(objective, finish + np.maximum(1, shortest.max(initial=1)))
    slope = (later - cost).astype(np.float64)[problem.workflow] + objective.call_weight
    return [np.argsort(key, kind="stable") for key in (-slope / np.maximum(1, shortest), slack, shortest)]
