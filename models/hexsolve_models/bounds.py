"""Lower bounds on the cost of every decision, in a few array passes. Knows `Problem`; knows no solver.

Proofs in models/README.md §5.
"""

import numpy as np

from hexsolve_models.alone import NEVER, Standalone, cost_at, own_cost, standalone, together, workflow_costs
from hexsolve_models.curves import curves
from hexsolve_models.fees import fees
from hexsolve_models.pools import Stakes, pools, queued
from hexsolve_models.problem import Problem

__all__ = ["NEVER", "Standalone", "cost_at", "lower_bound", "standalone", "standalone_bound", "workflow_costs"]


def standalone_bound(problem: Problem, alone: Standalone | None = None) -> int:
    """Each call at its earliest finish; the cost never falls with a finish."""
    return cost_at(problem, (alone or standalone(problem)).finish)


def lower_bound(problem: Problem, alone: Standalone | None = None) -> int:
    """The best of the standalone bound and those of the pools, with fees for crowded replicas where that is more;
    `NEVER` if a call cannot be placed."""
    if problem.num_calls == 0:
        return 0
    if problem.blocked_calls():
        return NEVER
    alone = alone or standalone(problem)
    earliest = alone.workflow_finish(problem)
    costs = workflow_costs(problem.objective, earliest).tolist()
    shape = curves(problem.objective)
    stakes, collected = Stakes(earliest, costs, np.zeros(len(costs)), None, shape), 0
    charged = fees(problem, alone, shape)
    if charged is not None and charged.paid.sum() - charged.total > sum(costs):
        least = np.zeros(len(costs))
        np.add.at(least, problem.workflow, charged.least)
        stakes, collected = (
            Stakes(earliest, charged.paid.astype(np.int64).tolist(), least, charged, shape),
            charged.total,
        )
    in_pools = [queued(problem, alone, stakes, pool) for pool in pools(problem, alone)]
    shared = max([together(problem.objective, stakes.paid), *in_pools])
    return shared - collected + own_cost(problem.objective, alone.finish)
