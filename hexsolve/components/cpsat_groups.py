"""Fix and optimise: CP-SAT on the last calls of a few queues at a time, all others as the best decision has them.

A large neighbourhood search (Shaw, CP 1998) and a decomposition in one: each part is small enough to be solved, parts
are drawn at random, and a better part makes the whole better by at least as much (models/README.md §4.3).
"""

from dataclasses import replace
from time import perf_counter

import numpy as np

from hexsolve.backends.outcome import Limits
from hexsolve.components.cpsat_full import run as solve_part
from hexsolve.proposal import Proposal
from hexsolve.tables import Ints
from hexsolve_models import Decision, Problem, cost, restriction, violations

IS_NATIVE = True
_MOST_CALLS = 10  # in a part
_PART_MS, _PART_S = 150.0, 0.05  # what a part may take, by the clock and in nominal seconds
_LEAST_MS = 10.0


def run(problem: Problem, hint: Decision | None, limits: Limits) -> Proposal:
    if hint is None:
        return Proposal(detail="parts need a decision to start from")
    started = perf_counter()
    best, price, work, build_ms, tried, found = hint, cost(problem, hint), 0.0, 0.0, 0, 0
    history = []
    rng = np.random.default_rng(limits.seed)
    while limits.wall_ms is not None or tried < 2 * problem.num_prefill:
        left_ms = _left_ms(limits, started)
        calls = _draw(problem, best, rng)
        if left_ms < _LEAST_MS or not len(calls):
            break
        tried += 1
        try:
            part = restriction.group(problem, best, calls)
        except restriction.NoPartError:
            continue
        own = replace(
            limits,
            wall_ms=None if limits.wall_ms is None else min(left_ms, _PART_MS),
            deterministic=None if limits.deterministic is None else min(limits.deterministic, _PART_S),
        )
        proposal = solve_part(part, restriction.part_of(best, calls), own)
        work, build_ms = work + proposal.work, build_ms + proposal.build_ms
        if proposal.decision is None or violations(part, proposal.decision):
            continue
        whole = restriction.merged(best, calls, proposal.decision)
        now = cost(problem, whole)
        if now < price:
            best, price, found = whole, now, found + 1
            history.append(((perf_counter() - started) * 1e3, float(now)))
    detail = f"{tried} parts, {found} improvements"
    return Proposal(best, detail=detail, work=work, build_ms=build_ms, history=tuple(history))


def _draw(problem: Problem, best: Decision, rng: np.random.Generator) -> Ints:
    """Calls that are last in the queues of random prefill replicas, but none that wait for one another by an edge."""
    is_tied = np.zeros(problem.num_calls, dtype=np.bool_)
    is_tied[problem.edge_before] = is_tied[problem.edge_after] = True
    drawn: list[int] = []
    for p in rng.permutation(problem.num_prefill).tolist():
        queue = np.flatnonzero(problem.is_free & (best.prefill == p))
        for c in queue[np.argsort(-best.prefill_start[queue], kind="stable")].tolist():
            if len(drawn) == _MOST_CALLS or is_tied[c]:
                break
            drawn.append(c)
    return np.array(sorted(drawn), dtype=np.int64)


def _left_ms(limits: Limits, started: float) -> float:
    return np.inf if limits.wall_ms is None else limits.wall_ms - (perf_counter() - started) * 1e3
