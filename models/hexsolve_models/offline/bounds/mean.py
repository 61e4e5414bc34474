"""A bound on the mean stretch from one pool: preemptive, fractional, by priority. Knows a pool; knows no due ticks.

Whatever is decided, F_w >= sum of shares times (mean tick at which call c is at work + g_c), for any shares of w's
calls and its critical path that add up to 1. The least weighted sum of mean ticks of the fluid pool is that of always
working on what has the largest weight per work (Goemans, Queyranne, Schulz, Skutella, Wang, SIAM J. Discrete Math. 15,
2002). Good shares are found by moving them to where the workflow would end last.
"""

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints
from hexsolve_models.offline.bounds.paths import Paths
from hexsolve_models.offline.bounds.pools import Demand, Floats, Pool, prices
from hexsolve_models.offline.problem import OfflineProblem

_ROUNDS = 80
_LEAST_SHARE = 1e-9
_MARGIN = 2.0**-36  # of a workflow's last tick over its reference: far above the roundings of all sums below


@dataclass(frozen=True, eq=False)
class _Fluid:
    """Calls of one pool as fluid: work in priced capacity, one unit of which the pool does per tick.

    Attributes
    ----------
    order : [N] calls by start.
    start, work : [N]; ends : [N] least time from the mean tick at work to the workflow's finish.
    """

    order: Ints
    start: Floats
    work: Floats
    ends: Floats


def pool_mean(problem: OfflineProblem, found: Paths, pool: Pool) -> float:
    """A lower bound on the mean stretch; -inf if the pool gives none."""
    if problem.num_workflows == 0:
        return 0.0
    fluid = _fluid(pool)
    early = found.finish.astype(np.float64)
    weight = 1.0 / (problem.reference_ticks.astype(np.float64) * problem.num_workflows)
    total = np.bincount(problem.workflow, weights=fluid.work, minlength=problem.num_workflows)
    counts = total > 0
    share = np.where(counts[problem.workflow], fluid.work / np.maximum(total, 1e-300)[problem.workflow], 0.0)
    own = np.where(counts, _LEAST_SHARE, 1.0)
    share *= (1.0 - own)[problem.workflow]
    best = -np.inf
    for turn in range(_ROUNDS):
        middle = mean_ticks(fluid.order, fluid.start, fluid.work, share * weight[problem.workflow])
        finish = middle + fluid.ends
        value, worst = _value(problem, weight, share, own, finish, early)
        best = max(best, value - _MARGIN * worst)
        share, own = _moved(problem, share, own, finish, early, 1.0 / (turn + 4.0))
    return best


def _value(
    problem: OfflineProblem, weight: Floats, share: Floats, own: Floats, finish: Floats, early: Floats
) -> tuple[float, float]:
    """The bound of these shares, and the sum of what was added for it."""
    by_call = np.bincount(problem.workflow, weights=share * finish, minlength=problem.num_workflows)
    sums = np.bincount(problem.workflow, weights=share, minlength=problem.num_workflows) + own
    ends = (by_call + own * early) / sums  # shares add up to 1 but for roundings
    return float((weight * (ends - problem.release_tick)).sum()), float((weight * (ends + early)).sum())


def _moved(
    problem: OfflineProblem, share: Floats, own: Floats, finish: Floats, early: Floats, step: float
) -> tuple[Floats, Floats]:
    """Shares moved to where the workflow ends later, in proportion to e^(step * lateness / reference)."""
    workflow, reference = problem.workflow, problem.reference_ticks.astype(np.float64)
    last = early.copy()
    np.maximum.at(last, workflow, np.where(share > 0, finish, 0.0))
    call = share * np.exp(np.maximum(step * (finish - last[workflow]) / reference[workflow], -30.0))
    path = own * np.exp(np.maximum(step * (early - last) / reference, -30.0))
    total = np.bincount(workflow, weights=call, minlength=last.size) + path
    return call / total[workflow], path / total


def _fluid(pool: Pool) -> _Fluid:
    everything = Demand(pool, np.full_like(pool.tail, np.iinfo(np.int64).max), pool.allowed)
    priced = prices(everything, np.ones(len(pool.height)))
    rate = float((priced * pool.capacity).sum())
    start = np.where(pool.allowed, pool.start, np.iinfo(np.int64).max).min(axis=1)
    ends = np.where(pool.allowed, pool.length / 2 + pool.tail, np.inf).min(axis=1)
    return _Fluid(np.argsort(start, kind="stable"), start.astype(np.float64), everything.whole(priced) / rate, ends)


@kernel
def mean_ticks(order: Ints, start: Floats, work: Floats, weight: Floats) -> Floats:
    """[N] mean tick at work of every call when the pool always works on the largest weight per work that has started.

    A call without work is at its start.
    """
    n = order.shape[0]
    left, summed = work.copy(), np.zeros(n)
    heap = [(0.0, 0)]
    heap.pop()
    now, i = 0.0, 0
    while i < n or len(heap) > 0:
        if len(heap) == 0:
            now = max(now, start[order[i]])
        while i < n and start[order[i]] <= now:
            c = order[i]
            i += 1
            if work[c] > 0.0:
                heappush(heap, (-weight[c] / work[c], c))
            else:
                summed[c] = start[c]
        if len(heap) == 0:
            continue
        c = heap[0][1]
        end = now + left[c]
        if i < n and start[order[i]] < end:
            end = start[order[i]]
            left[c] -= end - now
        else:
            left[c] = 0.0
            heappop(heap)
        summed[c] += (end - now) / work[c] * (now + (end - now) / 2.0)
        now = end
    return summed
