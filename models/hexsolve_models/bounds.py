"""Lower bounds on the cost of every decision, in a few array passes. Knows `Problem`; knows no solver.

Proofs in models/README.md §5.
"""

from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem
from hexsolve_models.timetable import held_segments

NEVER = 2**60
EXACT = 2.0**53  # integers below this are exact as doubles
ASSIGNMENT_LIMIT = 512  # workflows up to which the pool bound is worth its W x W assignment


@dataclass(frozen=True, eq=False)
class Standalone:
    """Earliest decode finishes of each call if it were the only one waiting (held KV and busy replicas counted).

    finish
        [N]; `NEVER` where a call cannot be placed.
    via_prefill, via_decode
        [N, P] and [N, D]: the same when the call must use that replica. Rows of locked calls in via_prefill: `NEVER`.
    """

    finish: Ints
    via_prefill: Ints
    via_decode: Ints

    def workflow_finish(self, problem: Problem) -> Ints:
        """[W] lower bound of F_w."""
        latest = np.zeros(problem.num_workflows, dtype=np.int64)
        np.maximum.at(latest, problem.workflow, self.finish + problem.objective.tail_ticks)
        return latest


def standalone(problem: Problem) -> Standalone:
    """Earliest finishes of each call alone."""
    via_prefill = np.full((problem.num_calls, problem.num_prefill), NEVER, dtype=np.int64)
    via_decode = np.full((problem.num_calls, problem.num_decode), NEVER, dtype=np.int64)
    held = [held_segments(problem, d) for d in range(problem.num_decode)]
    room = problem.kv_capacity - np.array([max(use) for _, use in held], dtype=np.int64)
    for c in range(problem.num_calls):
        arrival = _arrivals(problem, c)
        first = arrival.min(axis=0)
        for d in np.flatnonzero(problem.decode_allowed[c] & (first < NEVER)).tolist():
            start, ticks = int(first[d]), int(problem.decode_ticks[c, d])
            if problem.kv_blocks[c] > room[d]:
                start = _earliest_fit(*held[d], start, ticks, int(problem.kv_capacity[d] - problem.kv_blocks[c]))
            via_decode[c, d] = start + ticks
        if problem.is_free[c]:
            decode_ticks = np.where(problem.decode_allowed[c], problem.decode_ticks[c], NEVER)
            via_prefill[c] = np.minimum(np.maximum(arrival + decode_ticks, via_decode[c]).min(axis=1), NEVER)
    return Standalone(via_decode.min(axis=1, initial=NEVER), via_prefill, via_decode)


def standalone_bound(problem: Problem, alone: Standalone | None = None) -> int:
    """Each call at its earliest finish; the cost never falls with a finish."""
    alone = alone or standalone(problem)
    costs = [problem.objective.workflow_cost(w, int(f)) for w, f in enumerate(alone.workflow_finish(problem))]
    return _aggregate(problem, costs) + _own_bound(problem, alone)


def lower_bound(problem: Problem, alone: Standalone | None = None) -> int:
    """The better of the standalone and the pool bound; `NEVER` if a call cannot be placed."""
    if problem.num_calls == 0:
        return 0
    if problem.blocked_calls():
        return NEVER
    alone = alone or standalone(problem)
    bound = standalone_bound(problem, alone)
    if problem.num_workflows > ASSIGNMENT_LIMIT:
        return bound
    return max(bound, _pool_bound(problem, alone) + _own_bound(problem, alone))


def _arrivals(problem: Problem, c: int) -> Ints:
    """[P, D] (or [1, D] if locked) earliest KV arrival; `NEVER` where the prefill replica is not allowed."""
    if not problem.is_free[c]:
        return np.full((1, problem.num_decode), problem.release_tick[c])
    ready = np.maximum(problem.prefill_free_tick, problem.release_tick[c]) + problem.prefill_ticks[c]
    arrival: Ints = np.where(problem.prefill_allowed[c][:, None], ready[:, None] + problem.transfer(c), NEVER)
    return arrival


def _earliest_fit(ticks: list[int], use: list[int], start: int, duration: int, room: int) -> int:
    """Earliest tick >= start at which the profile stays at or below `room` for `duration` ticks."""
    ends = [*ticks[1:], NEVER]
    for tick, end, blocks in zip(ticks, ends, use, strict=True):
        if tick >= start + duration:
            break
        if end > start and blocks > room:
            start = end
    return start


def _aggregate(problem: Problem, costs: list[int]) -> int:
    return max(costs) if problem.objective.aggregate == "max" else sum(costs)


def _own_bound(problem: Problem, alone: Standalone) -> int:
    weights = problem.objective.call_weight.tolist()
    return sum(weight * finish for weight, finish in zip(weights, alone.finish.tolist(), strict=True))


def _pool_bound(problem: Problem, alone: Standalone) -> int:
    """The j-th workflow to finish does so no earlier than the pools can do the work of the j smallest."""
    done = np.maximum(_prefill_pool(problem), _decode_pool(problem))  # [j], non-decreasing
    tail = np.full(problem.num_workflows, NEVER, dtype=np.int64)
    np.minimum.at(tail, problem.workflow, problem.objective.tail_ticks)
    earliest = alone.workflow_finish(problem)
    if problem.objective.aggregate == "max":  # some workflow is the last one
        last = [problem.objective.workflow_cost(w, int(max(earliest[w], done[-1] + tail[w]))) for w in range(tail.size)]
        return min(last)
    from scipy.optimize import linear_sum_assignment

    finish = np.maximum(earliest[:, None], done[None, :] + tail[:, None])
    price = _costs(problem, finish)
    if np.abs(price).max() * tail.size >= EXACT:  # doubles would round, and a rounded bound is none
        return -NEVER
    return int(price[linear_sum_assignment(price)].sum())


def _costs(problem: Problem, finish: Ints) -> npt.NDArray[np.float64]:
    """[W, j] f_w(finish[w, j]); exact where below 2^53."""
    slope, intercept = problem.objective.slope.astype(np.float64), problem.objective.intercept
    pieces = (slope[:, k, None] * finish + intercept[:, k, None] for k in range(slope.shape[1]))
    return reduce(np.maximum, pieces)


def _prefill_pool(problem: Problem) -> Ints:
    """[j] earliest tick by which all prefills of some j workflows, and one transfer and decode after them, can be done.

    Each call counts with its fastest replica, and the pool works without gaps once its replicas are free.
    """
    free = problem.is_free
    if not free.any():
        return np.zeros(problem.num_workflows, dtype=np.int64)
    shortest = np.where(problem.prefill_allowed, problem.prefill_ticks, NEVER).min(axis=1)
    work = np.bincount(problem.workflow[free], weights=shortest[free], minlength=problem.num_workflows)
    decode = np.where(problem.decode_allowed, problem.decode_ticks, NEVER).min(axis=1)
    lag = min(int(decode[c] + problem.transfer(c).min()) for c in np.flatnonzero(free).tolist())
    used = np.flatnonzero(problem.prefill_allowed.any(axis=0))
    opens = np.maximum(problem.prefill_free_tick[used], problem.release_tick[free].min())
    rate = [(int(tick), 1) for tick in opens]
    totals = accumulate(sorted(work.astype(int).tolist()))
    return np.array([_done_at(rate, total) + (lag if total else 0) for total in totals])


def _decode_pool(problem: Problem) -> Ints:
    """[j] earliest tick by which the decode pool has room for the KV area (blocks x ticks) of some j workflows."""
    area = np.where(problem.decode_allowed, problem.decode_ticks, NEVER).min(axis=1).astype(object) * problem.kv_blocks
    work = [0] * problem.num_workflows
    for w, blocks_ticks in zip(problem.workflow.tolist(), area.tolist(), strict=True):
        work[w] += blocks_ticks
    rate = []
    for d in np.flatnonzero(problem.decode_allowed.any(axis=0)).tolist():
        ticks, use = held_segments(problem, d)
        room = [max(0, int(problem.kv_capacity[d]) - blocks) for blocks in use]
        rate += [(tick, now - before) for tick, now, before in zip(ticks, room, [0, *room], strict=False)]
    return np.array([_done_at(rate, total) for total in accumulate(sorted(work))])


def _done_at(changes: list[tuple[int, int]], work: int) -> int:
    """First tick by which a pool whose rate changes by `step` at `tick` has done `work`."""
    speed, now, left = 0, 0, work
    for tick, step in sorted(changes):
        if left <= speed * (tick - now):
            break
        left -= speed * (tick - now)
        speed, now = speed + step, tick
    return now - (-left // speed) if left > 0 else now if work else 0
