"""List schedules in a few static orders: a start that a search of hundreds of calls needs long to reach."""

from math import inf
from time import perf_counter

from hexsolve.backends.outcome import Limits
from hexsolve.proposal import Proposal
from hexsolve_models import Decision, Objective, Problem, earliest_finish
from hexsolve_models.alone import cost_at
from hexsolve_models.orders import static_orders

IS_NATIVE = False
_SHARE = 0.5  # of the time, at most
_MS_PER_TRIPLE = 4e-6  # of call, prefill and decode replica


def run(problem: Problem, hint: Decision | None, limits: Limits) -> Proposal:
    """The cheapest of those there is time for; no hint makes it better."""
    until_s = inf if limits.wall_ms is None else perf_counter() + _SHARE * limits.wall_ms / 1e3
    each_s = 1e-3 * _MS_PER_TRIPLE * problem.prefill_ticks.size * problem.num_decode
    found = []

    def price(decision: Decision, objective: Objective | None = None) -> int:
        return cost_at(problem, decision.decode_finish(problem), objective)

    def within_caps(decision: Decision) -> bool:
        return all(price(decision, cap) <= limit for cap, limit in problem.caps)

    for order in static_orders(problem):
        if perf_counter() + each_s > until_s:
            break
        found.append(earliest_finish(problem, order, compiled=True))
    best = min(filter(within_caps, found), key=price, default=None)
    return Proposal(best, detail=f"{len(found)} orders", work=len(found))
