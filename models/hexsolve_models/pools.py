"""Bounds from what a pool of replicas can do together in some time. Knows calls alone and what else they pay for; knows
no solver. Proofs in models/README.md §5.1.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hexsolve_models.alone import NEVER, SAFE, Standalone, bound_here_of, least_crowding, together, workflow_costs
from hexsolve_models.curves import Curves
from hexsolve_models.fees import EXACT, Fees
from hexsolve_models.flat import Flat, read_only
from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem

Floats = npt.NDArray[np.float64]

_MOST_PLACES = 160  # workflows in one assignment: 3 ms
_PRICE_SCALE = 1024


class Stakes(NamedTuple):
    """What is known of a workflow's cost without a queue."""

    earliest: Ints  # [W] least F_w
    paid: list[int]  # [W] least cost, parts of fees included
    least: Floats  # [W] least parts of fees, whatever F_w is
    fees: Fees | None
    curves: Curves


class Pool(NamedTuple):
    """Work of M workflows and what replicas can do together, both weighted by the replicas' prices."""

    flows: Ints  # [M] workflows with work here
    only: Ints  # [M] the workflow's only call if that chooses its decode replica behind this work; -1 otherwise
    work: Ints  # [M] least work of each
    after: Ints  # [M] least ticks from the end of its last piece of work to F_w
    tick: Ints  # [T] when the rate changes, increasing
    rate: Ints  # [T] work per tick from there on
    before: Ints  # [T] work that can be done until there

    def done(self, work: Ints) -> Ints:
        """First ticks by which so much work can be done."""
        i = np.maximum(0, np.searchsorted(self.before, work) - 1)
        return np.where(work > 0, self.tick[i] - (self.before[i] - work) // np.maximum(1, self.rate[i]), 0)


def pools(problem: Problem, alone: Standalone) -> list[Pool]:
    """The prefill pool and the decode pool, where there is work for them."""
    pools = (_prefill_pool(problem, alone), _decode_pool(problem))
    return [pool for pool in pools if pool is not None]


def _prefill_pool(problem: Problem, alone: Standalone) -> Pool | None:
    """Every prefill once, on the replica where ticks times price are fewest, in replicas that work from when they are
    free on."""
    free = np.flatnonzero(problem.is_free)
    if not free.size:
        return None
    work, price = _priced(problem.flat.prefill[free], np.ones(free.size, dtype=np.int64))
    opens = np.maximum(problem.prefill_free_tick, problem.release_tick[free].min())
    after = alone.after_prefill[free] + problem.objective.tail_ticks[free]
    only = np.where(np.bincount(problem.workflow)[problem.workflow[free]] == 1, free, -1)
    return _pool(problem, free, only, work, after, opens, price)


def _decode_pool(problem: Problem) -> Pool | None:
    """The KV area (blocks times ticks) of every call, likewise, in the room that held KV leaves."""
    flat = problem.flat
    most_held = np.maximum.reduceat(flat.held_use, flat.held_from[:-1])
    if (flat.capacity - most_held).max() >= flat.blocks.sum():
        return None  # one replica could take them all at once
    alone_ticks = np.where(flat.decode > 0, flat.decode + least_crowding(problem), -1)
    largest = float(alone_ticks.max()) * float(flat.blocks.sum())
    largest += float(flat.capacity.sum()) * float(flat.held_tick.max())
    if largest * _PRICE_SCALE >= SAFE:
        return None
    work, price = _priced(alone_ticks, flat.blocks)
    replica = np.repeat(np.arange(problem.num_decode), np.diff(flat.held_from))
    room = price[replica] * np.maximum(0, flat.capacity[replica] - flat.held_use)
    step = np.diff(room, prepend=0)
    step[flat.held_from[:-1]] = room[flat.held_from[:-1]]
    calls = np.arange(problem.num_calls)
    return _pool(problem, calls, np.full_like(calls, -1), work, problem.objective.tail_ticks, flat.held_tick, step)


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


def _pool(problem: Problem, calls: Ints, only: Ints, work: Ints, after: Ints, tick: Ints, step: Ints) -> Pool:
    """Add up by workflow and by tick."""
    total = np.zeros(problem.num_workflows, dtype=np.int64)
    least_after = np.full(problem.num_workflows, NEVER, dtype=np.int64)
    only_call = np.full(problem.num_workflows, -1, dtype=np.int64)
    flow = problem.workflow[calls]
    np.add.at(total, flow, work)
    np.minimum.at(least_after, flow, after)
    only_call[flow] = only
    flows = np.flatnonzero(total)
    by_tick = np.argsort(tick, kind="stable")
    tick, rate = tick[by_tick], np.cumsum(step[by_tick])
    before = np.concatenate([[0], np.cumsum(rate[:-1] * np.diff(tick))])
    return Pool(flows, only_call[flows], total[flows], least_after[flows], tick, rate, before)


def queued(problem: Problem, alone: Standalone, stakes: Stakes, pool: Pool) -> int:
    """Cost of the cheapest order in which a pool can do its work; workflows without work there cost what they cost."""
    objective, earliest = problem.objective, stakes.earliest
    last = earliest.copy()
    last[pool.flows] = np.maximum(last[pool.flows], pool.done(pool.work.sum()) + pool.after)
    if (last == earliest).all():
        return together(objective, stakes.paid)
    slowest = last if stakes.fees is None else last + stakes.fees.most_later
    if float(np.abs(workflow_costs(objective, slowest)).max()) * last.size >= EXACT:  # a rounded bound is none
        return together(objective, stakes.paid)
    paid = np.array(stakes.paid)
    gain = workflow_costs(objective, last)[pool.flows] - paid[pool.flows]
    row = np.argsort(-gain, kind="stable")[:_MOST_PLACES]
    row = row[np.argsort(pool.work[row], kind="stable")]
    flows, work = pool.flows[row], pool.work[row]
    price = np.zeros((row.size, row.size))
    choices = _choices(problem, alone, stakes, pool.only[row])
    _prices(
        work, np.cumsum(work), pool.after[row], earliest[flows], pool.tick, pool.rate, pool.before,
        Curves(*(part[flows] for part in stakes.curves)), paid[flows].astype(np.float64), stakes.least[flows],
        *choices, price,
    )  # fmt: skip
    rest = np.delete(paid, flows).tolist()
    if objective.aggregate == "max":
        # At least M - j workflows are in place j or later: the dearest of them costs the (M - j)-th smallest or more.
        places = np.sort(price, axis=0)[::-1].diagonal()
        return together(objective, [int(places.max()), *rest])
    from scipy.optimize import linear_sum_assignment

    return together(objective, [int(price[linear_sum_assignment(price)].sum()), *rest])


def _choices(problem: Problem, alone: Standalone, stakes: Stakes, only: Ints) -> tuple[Ints, Floats, Ints]:
    """[M, K] later by how many ticks than on the nearest decode replica, [M, K] for what, and [M] how many choices."""
    count = np.zeros(only.size, dtype=np.int64)
    if stakes.fees is None:
        return np.zeros((only.size, 1), dtype=np.int64), np.zeros((only.size, 1)), count
    part = stakes.fees.part
    later, pay = np.zeros((only.size, part.size), dtype=np.int64), np.zeros((only.size, part.size))
    _find_choices(
        problem.flat, bound_here_of(problem), alone.finish, alone.via_decode, alone.after_prefill,
        read_only(problem.objective.call_weight), stakes.fees.first, part, only, later, pay, count,
    )  # fmt: skip
    return later, pay, count


@kernel
def _find_choices(
    f: Flat, bound_here: Ints, finish: Ints, via_decode: Ints, after_prefill: Ints, weight: Ints, first: Ints,
    part: Floats, only: Ints, later: Ints, pay: Floats, count: Ints,
) -> None:  # fmt: skip
    """Fill the last three with the choices (replica, company) that no other beats, later and cheaper in turn."""
    for i in range(only.size):
        c = only[i]
        if c < 0:
            continue
        for d in range(f.capacity.size):
            if f.decode[c, d] < 0:
                continue
            moving = NEVER
            for p in range(f.free_tick.size):
                if f.prefill[c, p] > 0:
                    moving = min(moving, f.base[p, d] + ((f.rate[p, d] * f.moved[c] + 1023) >> 10))
            free_of_charge = max(f.uncrowded[d], bound_here[d] + 1)
            ticks = f.decode[c, d] + f.crowding[c, d] * (free_of_charge - f.uncrowded[d])
            farther = min(via_decode[c, d] - finish[c], moving + ticks - after_prefill[c])
            for level in range(first.size):
                ticks = farther + f.crowding[c, d] * max(0, first[level] - free_of_charge)
                price = part[d, level] + weight[c] * ticks
                n = count[i]
                x = n
                while x > 0 and later[i, x - 1] > ticks:
                    x -= 1
                if x > 0 and pay[i, x - 1] <= price:
                    continue
                # What is not earlier and not cheaper goes.
                if x > 0 and later[i, x - 1] == ticks:
                    x -= 1
                y = x
                while y < n and pay[i, y] >= price:
                    y += 1
                if y == x:
                    for z in range(n, x, -1):
                        later[i, z], pay[i, z] = later[i, z - 1], pay[i, z - 1]
                else:
                    for z in range(y, n):
                        later[i, z - y + x + 1], pay[i, z - y + x + 1] = later[i, z], pay[i, z]
                later[i, x], pay[i, x] = ticks, price
                count[i] = n + 1 - (y - x)


@kernel
def _prices(
    work: Ints, total: Ints, after: Ints, earliest: Ints, tick: Ints, rate: Ints, before: Ints,
    curves: Curves, paid: Floats, least: Floats, later: Ints, pay: Floats, count: Ints, price: Floats,
) -> None:  # fmt: skip
    """price[i, j]: least cost of workflow i as the j-th to be done. By then it is done itself, with j others."""
    for i in range(work.size):
        step, first = 0, 0
        for j in range(work.size):
            todo = total[j] if i <= j else work[i] + (total[j - 1] if j > 0 else 0)
            while step + 1 < tick.size and before[step + 1] < todo:
                step += 1
            done = tick[step] - (before[step] - todo) // max(1, rate[step])
            finish = max(earliest[i], done + after[i])
            while first + 1 < curves.num[i] and curves.since[i, first + 1] <= finish:
                first += 1
            k, best = first, np.inf
            for x in range(max(1, count[i])):
                end = finish + later[i, x] if count[i] > 0 else finish
                while k + 1 < curves.num[i] and curves.since[i, k + 1] <= end:
                    k += 1
                cost = curves.slope[i, k] * end + curves.intercept[i, k]
                if end > curves.due[i]:
                    cost += curves.late[i]
                if cost >= best:
                    break
                best = min(best, cost + (pay[i, x] if count[i] > 0 else least[i]))
            price[i, j] = max(paid[i], best)
