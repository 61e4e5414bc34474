"""Lower bounds on the cost of every decision, in a few array passes. Knows `Problem`; knows no solver.

Proofs in models/README.md §5.
"""

from dataclasses import dataclass
from functools import cached_property
from operator import mul
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hexsolve_models.flat import Flat
from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints, Objective
from hexsolve_models.problem import Problem

NEVER = 2**60
EXACT = 2.0**53  # integers below this are exact as doubles
_SAFE = 2.0**62  # integers below this leave room for one sum in int64
_MOST_PLACES = 160  # workflows in one assignment: 3 ms
_PRICE_SCALE = 1024


@dataclass(frozen=True, eq=False)
class Standalone:
    """Earliest decode finishes of each call with nobody in its way but who has to be: held KV, busy replicas, the calls
    it waits for, and for crowding those bound to the replica.

    finish
        [N]; `NEVER` where a call cannot be placed.
    via_decode
        [N, D]: the same when the call must use that replica.
    after_prefill
        [N]: fewest ticks from the end of its prefill to its finish; 0 if locked.
    """

    problem: Problem
    finish: Ints
    via_decode: Ints
    after_prefill: Ints

    @cached_property
    def via_prefill(self) -> Ints:
        """[N, P] earliest finish when the call must prefill there. Rows of locked calls: `NEVER`."""
        via = np.full((self.problem.num_calls, self.problem.num_prefill), NEVER, dtype=np.int64)
        _via_prefill(self.problem.flat, _bound_here(self.problem), self.finish, self.via_decode, via)
        return via

    def workflow_finish(self, problem: Problem) -> Ints:
        """[W] lower bound of F_w."""
        return _last_of(problem, self.finish, problem.objective)


def standalone(problem: Problem) -> Standalone:
    """Earliest finishes of each call alone."""
    finish = np.full(problem.num_calls, NEVER, dtype=np.int64)
    via_decode = np.full((problem.num_calls, problem.num_decode), NEVER, dtype=np.int64)
    after_prefill = np.zeros(problem.num_calls, dtype=np.int64)
    _alone(problem.flat, problem.topological, _bound_here(problem), finish, via_decode, after_prefill)
    return Standalone(problem, finish, via_decode, after_prefill)


def standalone_bound(problem: Problem, alone: Standalone | None = None) -> int:
    """Each call at its earliest finish; the cost never falls with a finish."""
    return cost_at(problem, (alone or standalone(problem)).finish)


def lower_bound(problem: Problem, alone: Standalone | None = None) -> int:
    """The best of the standalone and the two pool bounds; `NEVER` if a call cannot be placed."""
    if problem.num_calls == 0:
        return 0
    if problem.blocked_calls():
        return NEVER
    alone = alone or standalone(problem)
    costs = workflow_costs(problem.objective, alone.workflow_finish(problem)).tolist()
    shared = max(_together(problem, costs), *(_queued(problem, alone, costs, pool) for pool in _pools(problem, alone)))
    return shared + _own_cost(problem.objective, alone.finish)


def cost_at(problem: Problem, finish: Ints, objective: Objective | None = None) -> int:
    """The cost if call c were done at finish[c], exactly, in a few array passes."""
    objective = objective or problem.objective
    costs = workflow_costs(objective, _last_of(problem, finish, objective)).tolist()
    return (max(costs, default=0) if objective.aggregate == "max" else sum(costs)) + _own_cost(objective, finish)


def workflow_costs(objective: Objective, finish: Ints) -> npt.NDArray[Any]:
    """[W] f_w(finish[w]); Python integers where int64 could overflow."""
    largest = float(objective.slope.max(initial=0)) * float(finish.max(initial=0))
    largest += float(np.abs(objective.intercept).max(initial=0)) + float(objective.late_weight.max(initial=0))
    dtype = np.int64 if largest < _SAFE else object
    slope, intercept = objective.slope.astype(dtype), objective.intercept
    late = np.where(finish > objective.due_tick, objective.late_weight, 0)
    costs: npt.NDArray[Any] = (slope * finish[:, None] + intercept).max(axis=1) + late
    return costs


class _Pool(NamedTuple):
    """Work of M workflows and what replicas can do together, both weighted by the replicas' prices."""

    flows: Ints  # [M] workflows with work here
    work: Ints  # [M] least work of each
    after: Ints  # [M] least ticks from the end of its last piece of work to F_w
    tick: Ints  # [T] when the rate changes, increasing
    rate: Ints  # [T] work per tick from there on
    before: Ints  # [T] work that can be done until there

    def done(self, work: Ints) -> Ints:
        """First ticks by which so much work can be done."""
        i = np.maximum(0, np.searchsorted(self.before, work) - 1)
        return np.where(work > 0, self.tick[i] - (self.before[i] - work) // np.maximum(1, self.rate[i]), 0)


def _pools(problem: Problem, alone: Standalone) -> list[_Pool]:
    pools = (_prefill_pool(problem, alone), _decode_pool(problem))
    return [pool for pool in pools if pool is not None]


def _prefill_pool(problem: Problem, alone: Standalone) -> _Pool | None:
    """Every prefill once, on the replica where ticks times price are fewest, in replicas that work from when they are
    free on."""
    free = np.flatnonzero(problem.is_free)
    if not free.size:
        return None
    work, price = _priced(problem.flat.prefill[free], np.ones(free.size, dtype=np.int64))
    opens = np.maximum(problem.prefill_free_tick, problem.release_tick[free].min())
    after = alone.after_prefill[free] + problem.objective.tail_ticks[free]
    return _pool(problem, free, work, after, opens, price)


def _decode_pool(problem: Problem) -> _Pool | None:
    """The KV area (blocks times ticks) of every call, likewise, in the room that held KV leaves."""
    flat = problem.flat
    calls = np.arange(problem.num_calls)
    alone_ticks = np.where(flat.decode > 0, flat.decode + _least_crowding(problem), -1)
    largest = float(alone_ticks.max()) * float(flat.blocks.sum()) + float(flat.capacity.sum()) * float(
        flat.held_tick.max()
    )
    if largest * _PRICE_SCALE >= _SAFE:
        return None
    work, price = _priced(alone_ticks, flat.blocks)
    replica = np.repeat(np.arange(problem.num_decode), np.diff(flat.held_from))
    room = price[replica] * np.maximum(0, flat.capacity[replica] - flat.held_use)
    step = np.diff(room, prepend=0)
    step[flat.held_from[:-1]] = room[flat.held_from[:-1]]
    return _pool(problem, calls, work, problem.objective.tail_ticks, flat.held_tick, step)


def _priced(ticks: Ints, blocks: Ints) -> tuple[Ints, Ints]:
    """[N] least blocks * ticks * price over the replicas, and [R] prices that follow speed; ticks -1: not allowed.

    Any prices give a bound: what a replica does in a tick counts its price, and a call's work there no less than its
    least. With prices by speed slow replicas do not count as fast ones.
    """
    allowed = ticks > 0
    fastest = np.where(allowed, ticks, NEVER).min(axis=1)
    needed = np.where(allowed, ticks, 0).sum(axis=0)
    price = _PRICE_SCALE * np.where(allowed, fastest[:, None], 0).sum(axis=0) // np.maximum(1, needed)
    price = np.where(needed > 0, np.maximum(1, price), 0)
    return np.where(allowed, ticks * price, NEVER).min(axis=1) * blocks, price


def _pool(problem: Problem, calls: Ints, work: Ints, after: Ints, tick: Ints, step: Ints) -> _Pool:
    """Add up by workflow and by tick."""
    total = np.zeros(problem.num_workflows, dtype=np.int64)
    least_after = np.full(problem.num_workflows, NEVER, dtype=np.int64)
    flow = problem.workflow[calls]
    np.add.at(total, flow, work)
    np.minimum.at(least_after, flow, after)
    flows = np.flatnonzero(total)
    by_tick = np.argsort(tick, kind="stable")
    tick, rate = tick[by_tick], np.cumsum(step[by_tick])
    before = np.concatenate([[0], np.cumsum(rate[:-1] * np.diff(tick))])
    return _Pool(flows, total[flows], least_after[flows], tick, rate, before)


def _queued(problem: Problem, alone: Standalone, costs: list[int], pool: _Pool) -> int:
    """Cost of the cheapest order in which a pool can do its work; workflows without work there cost what they cost."""
    earliest = alone.workflow_finish(problem)
    last = earliest.copy()
    last[pool.flows] = np.maximum(last[pool.flows], pool.done(pool.work.sum()) + pool.after)
    if (last == earliest).all():
        return _together(problem, costs)
    price_last = workflow_costs(problem.objective, last)
    if float(np.abs(price_last).max()) * len(costs) >= EXACT:  # doubles would round, and a rounded bound is none
        return _together(problem, costs)
    gain = price_last[pool.flows] - np.array(costs)[pool.flows]
    row = np.argsort(-gain, kind="stable")[:_MOST_PLACES]
    row = row[np.argsort(pool.work[row], kind="stable")]
    flows, work = pool.flows[row], pool.work[row]
    price = np.zeros((row.size, row.size))
    objective = problem.objective
    _prices(
        work, np.cumsum(work), pool.after[row], earliest[flows], pool.tick, pool.rate, pool.before,
        objective.slope[flows], objective.intercept[flows], objective.due_tick[flows], objective.late_weight[flows],
        price,
    )  # fmt: skip
    rest = np.delete(np.array(costs), flows).tolist()
    if objective.aggregate == "max":
        # At least M - j workflows are in place j or later: the dearest of them costs the (M - j)-th smallest or more.
        places = np.sort(price, axis=0)[::-1].diagonal()
        return _together(problem, [int(places.max()), *rest])
    from scipy.optimize import linear_sum_assignment

    return _together(problem, [int(price[linear_sum_assignment(price)].sum()), *rest])


@kernel
def _prices(
    work: Ints, total: Ints, after: Ints, earliest: Ints, tick: Ints, rate: Ints, before: Ints,
    slope: Ints, intercept: Ints, due: Ints, late: Ints, price: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    """price[i, j]: least cost of workflow i as the j-th to be done. By then it is done itself, with j others."""
    for i in range(work.size):
        step = 0
        for j in range(work.size):
            todo = total[j] if i <= j else work[i] + (total[j - 1] if j > 0 else 0)
            while step + 1 < tick.size and before[step + 1] < todo:
                step += 1
            done = tick[step] - (before[step] - todo) // max(1, rate[step])
            finish = max(earliest[i], done + after[i])
            best = slope[i, 0] * finish + intercept[i, 0]
            for k in range(1, slope.shape[1]):
                best = max(best, slope[i, k] * finish + intercept[i, k])
            price[i, j] = best + late[i] if finish > due[i] else best


def _together(problem: Problem, costs: list[Any]) -> int:
    together: int = max(costs, default=0) if problem.objective.aggregate == "max" else sum(costs)
    return together


def _own_cost(objective: Objective, finish: Ints) -> int:
    own: int = sum(map(mul, objective.call_weight.tolist(), finish.tolist()))
    return own


def _last_of(problem: Problem, finish: Ints, objective: Objective) -> Ints:
    """[W] largest finish + tail of the calls of each workflow."""
    last = np.zeros(problem.num_workflows, dtype=np.int64)
    np.maximum.at(last, problem.workflow, finish + objective.tail_ticks)
    return last


def _bound_here(problem: Problem) -> Ints:
    """[D] calls that decode there whatever is decided."""
    return np.bincount(problem.locked_decode[~problem.is_free], minlength=problem.num_decode)


def _least_crowding(problem: Problem) -> Ints:
    """[N, D] ticks a call takes longer beside those bound to the replica."""
    count = _bound_here(problem)[None, :] + problem.is_free[:, None]
    ticks: Ints = problem.crowding_ticks * np.maximum(0, count - problem.uncrowded_calls)
    return ticks


@kernel
def _alone(f: Flat, order: Ints, bound_here: Ints, finish: Ints, via_decode: Ints, after_prefill: Ints) -> None:
    """Fill the last three in place; `order` runs along the edges."""
    num_decode = f.capacity.size
    arrival, lag = np.zeros(num_decode, np.int64), np.zeros(num_decode, np.int64)
    peak = np.zeros(num_decode, np.int64)
    for d in range(num_decode):
        for i in range(f.held_from[d], f.held_from[d + 1]):
            peak[d] = max(peak[d], f.held_use[i])
    for c in order:
        is_free = f.locked[c] < 0
        release = f.release[c]
        for e in range(f.wait_from[c], f.wait_from[c + 1]):
            release = max(release, finish[f.wait_for[e]] + f.wait_lag[e])
        arrival[:] = NEVER if is_free else release
        lag[:] = NEVER
        for p in range(f.free_tick.size):
            if f.prefill[c, p] > 0:
                ready = max(f.free_tick[p], release) + f.prefill[c, p]
                for d in range(num_decode):
                    moving = f.base[p, d] + ((f.rate[p, d] * f.moved[c] + 1023) >> 10)
                    lag[d] = min(lag[d], moving)
                    arrival[d] = min(arrival[d], ready + moving)
        fewest = NEVER
        for d in range(num_decode):
            if f.decode[c, d] > 0 and arrival[d] < NEVER:
                beside = bound_here[d] + (1 if is_free else 0)
                ticks = f.decode[c, d] + f.crowding[c, d] * max(0, beside - f.uncrowded[d])
                fewest = min(fewest, lag[d] + ticks)
                start = arrival[d]
                if f.blocks[c] > f.capacity[d] - peak[d]:
                    # Earliest fit: restart after every step that is too full.
                    for i in range(f.held_from[d], f.held_from[d + 1]):
                        if f.held_tick[i] >= start + ticks:
                            break
                        is_last = i + 1 == f.held_from[d + 1]
                        too_full = f.held_use[i] + f.blocks[c] > f.capacity[d]
                        if too_full and not is_last and f.held_tick[i + 1] > start:
                            start = f.held_tick[i + 1]
                via_decode[c, d] = start + ticks
                finish[c] = min(finish[c], start + ticks)
        if is_free:
            after_prefill[c] = fewest


@kernel
def _via_prefill(f: Flat, bound_here: Ints, finish: Ints, via_decode: Ints, via: Ints) -> None:
    """Fill `via` [N, P]: the best decode replica behind each prefill replica, or the earliest finish there if later."""
    for c in range(finish.size):
        release = f.release[c]
        for e in range(f.wait_from[c], f.wait_from[c + 1]):
            release = max(release, finish[f.wait_for[e]] + f.wait_lag[e])
        for p in range(f.free_tick.size):
            if f.prefill[c, p] > 0:
                ready = max(f.free_tick[p], release) + f.prefill[c, p]
                for d in range(f.capacity.size):
                    if f.decode[c, d] > 0:
                        moving = f.base[p, d] + ((f.rate[p, d] * f.moved[c] + 1023) >> 10)
                        ticks = f.decode[c, d] + f.crowding[c, d] * max(0, bound_here[d] + 1 - f.uncrowded[d])
                        via[c, p] = min(via[c, p], max(ready + moving + ticks, via_decode[c, d]))
