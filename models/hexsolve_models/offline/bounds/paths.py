"""Each workflow alone on empty replicas: earliest starts, least rests. Knows one workflow at a time and no load.

Every tick here is one that no decision can beat (models/README.md, "Bounds of a whole instance").
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from hexsolve_models.objective import Ints
from hexsolve_models.offline.problem import RATE_BLOCKS, OfflineProblem

NEVER = 2**40  # ticks of what is not allowed; sums of a few stay inside int64


@dataclass(frozen=True, eq=False)
class Paths:
    """Critical paths; ticks.

    Attributes
    ----------
    ready : [N] earliest tick at which the call is ready.
    service : [N] least time from ready to finish.
    rest : [N] least time from the call's finish to the workflow's.
    after_prefill : [N, P] least time from prefill end on p to the call's finish; `NEVER` where not allowed.
    until_decode : [N, D] least time from ready to decode start on d; `NEVER` where not allowed.
    finish : [W] earliest finish of the workflow.
    """

    ready: Ints
    service: Ints
    rest: Ints
    after_prefill: Ints
    until_decode: Ints
    finish: Ints


def paths(problem: OfflineProblem) -> Paths:
    """Forward and backward passes over every workflow.

    Raises
    ------
    ValueError
        If a call can be placed nowhere, so that there is no decision to bound.
    """
    blocked = problem.blocked_calls()
    if blocked:
        raise ValueError(f"call {blocked[0]}: expected a prefill and a decode replica that may serve it, got none")
    after_prefill, until_decode = _around_transfer(problem)
    prefill = np.where(problem.prefill_allowed, problem.prefill_ticks, NEVER)
    service = (prefill + after_prefill).min(axis=1)
    ready = _ready(problem, service)
    rest = _rest(problem, service)
    finish = np.zeros(problem.num_workflows, dtype=np.int64)
    np.maximum.at(finish, problem.workflow, ready + service)
    return Paths(ready, service, rest, after_prefill, until_decode, finish)


def least_ratios(problem: OfflineProblem, finish: Ints) -> list[Fraction]:
    """By workflow: the stretch of a finish, exactly."""
    late = (finish - problem.release_tick).tolist()
    return [Fraction(ticks, reference) for ticks, reference in zip(late, problem.reference_ticks.tolist(), strict=True)]


def _around_transfer(problem: OfflineProblem) -> tuple[Ints, Ints]:
    """`after_prefill` [N, P] and `until_decode` [N, D], one pair of replicas at a time to spare memory."""
    shape = problem.num_calls, problem.num_prefill, problem.num_decode
    prefill = np.where(problem.prefill_allowed, problem.prefill_ticks, NEVER)
    decode = np.where(problem.decode_allowed, problem.decode_ticks, NEVER)
    after, until = np.full(shape[:2], NEVER), np.full(shape[::2], NEVER)
    for p in range(shape[1]):
        for d in range(shape[2]):
            moved = problem.transfer_rate_ticks[p, d] * problem.transfer_blocks // RATE_BLOCKS
            lag = problem.transfer_base_ticks[p, d] + moved
            after[:, p] = np.minimum(after[:, p], lag + decode[:, d])
            until[:, d] = np.minimum(until[:, d], prefill[:, p] + lag)
    return after, until


def _ready(problem: OfflineProblem, service: Ints) -> Ints:
    ready = (problem.release_tick[problem.workflow] + problem.ready_lag).tolist()
    took = service.tolist()
    for c in problem.topological:
        for before, lag in problem.parents[c]:
            ready[c] = max(ready[c], ready[before] + took[before] + lag)
    return np.array(ready, dtype=np.int64)


def _rest(problem: OfflineProblem, service: Ints) -> Ints:
    rest = [0] * problem.num_calls
    took = service.tolist()
    for c in reversed(problem.topological):
        for after, lag in problem.children[c]:
            rest[c] = max(rest[c], lag + took[after] + rest[after])
    return np.array(rest, dtype=np.int64)
