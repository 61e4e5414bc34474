"""The exact optimum of a small problem without KV limits: every queue that can still be part of a better decision, and
every way to put them together. Knows `Pool`, multipliers and rents; knows no clock. Proof: models/README.md §11.5.
"""

from dataclasses import dataclass

import numpy as np

from hexsolve_models.alone import bound_here_of, standalone
from hexsolve_models.decision import Decision
from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints
from hexsolve_models.relaxations.ascent import Ascent, Multipliers
from hexsolve_models.relaxations.pool import Pool
from hexsolve_models.relaxations.prices import FORBIDDEN, Floats
from hexsolve_models.relaxations.rents import Rents, crowding_of
from hexsolve_models.relaxations.together import Best, Calls, Listed, put_together
from hexsolve_models.timetable import timetable

MOST_CALLS = 62  # a set of calls is one integer


@dataclass(frozen=True, eq=False)
class Exact:
    """What an exhaustive search found.

    Attributes
    ----------
    bound : no decision costs less; the incumbent's cost if it cannot be beaten.
    decision : the cheapest decision below the incumbent; it costs `bound` unless KV is short. None if there is none.
    queues, work : queues listed, and steps of the search.
    """

    bound: int
    decision: Decision | None
    queues: int
    work: int


def search_all(
    pool: Pool, multipliers: Multipliers, rents: Rents | None, most_queues: int, most_work: int
) -> Exact | None:
    """None if the problem is out of reach: too many calls, steps longer than a tick, or one of the limits is met.

    Parameters
    ----------
    most_queues
        Queues to list at most, about 0.1 microseconds each.
    most_work
        Steps to search at most, about 5 nanoseconds each.
    """
    if pool.calls.size > MOST_CALLS or pool.step > 1 or pool.scale < 1.0:
        return None
    ascent = Ascent(pool, rents)
    value, worth, _, _ = ascent.evaluate(multipliers.worth, multipliers.share)
    limit = (pool.known - pool.base) * pool.scale
    if limit - pool.scale < value:
        return Exact(pool.known, None, 0, 0)
    parent, call, end, contents, machine = np.empty((5, most_queues), dtype=np.int64)
    nodes = Listed(parent, call, end, contents, machine, np.empty(most_queues))
    room = limit - pool.scale - value
    count = _list_queues(
        room, pool.ticks, pool.release, pool.opens, pool.first, ascent.prices, worth, ascent.rows, nodes
    )
    if count < 0:
        return None
    queue = np.flatnonzero(nodes.price[:count] <= room)
    queue = queue[np.lexsort((nodes.price[queue], nodes.machine[queue]))]
    best = Best(np.full(1, limit), np.full(pool.opens.size, -1), np.full(pool.calls.size, -1))
    work = put_together(
        value, pool.scale, most_work, queue, nodes, ascent.prices, _calls(pool, rents, ascent, multipliers), best
    )  # fmt: skip
    if work < 0:
        return None
    decision = None if best.price[0] == limit else _decision(pool, nodes, best)
    return Exact(pool.cost(best.price[0]), decision, queue.size, work)


def _calls(pool: Pool, rents: Rents | None, ascent: Ascent, multipliers: Multipliers) -> Calls:
    problem = pool.problem
    prices, begin = ascent.finishes(multipliers.share)
    locked = np.flatnonzero(~problem.is_free)
    home = problem.locked_decode[locked]
    finish = standalone(problem).finish[locked] + problem.objective.tail_ticks[locked]
    return Calls(
        flow=pool.flow,
        kind=pool.machine_kind,
        after=pool.by_decode,
        earliest=pool.earliest,
        latest=pool.latest,
        tail=pool.tail,
        alone=pool.alone,
        own=pool.own,
        crowding=crowding_of(pool),
        bound_here=bound_here_of(problem),
        uncrowded=problem.flat.uncrowded,
        twin=_twins(pool),
        locked=np.stack((home, finish, problem.crowding_ticks[locked, home], problem.workflow[locked])),
        locked_own=np.floor(problem.objective.call_weight[locked] * pool.scale),
        bends=pool.bends,
        rent=np.zeros(pool.by_decode.shape[1:]) if rents is None else rents.price,
        finish=prices,
        begin=begin,
    )


def _twins(pool: Pool) -> Ints:
    """[D] the last decode replica before it that differs in nothing; -1: none, or locked calls are there."""
    bound_here = bound_here_of(pool.problem)
    num_decode = bound_here.size
    columns = (
        pool.by_decode.reshape(-1, num_decode),
        crowding_of(pool),
        pool.problem.flat.uncrowded[None],
        bound_here[None],
    )
    _, first, group = np.unique(np.vstack(columns), axis=1, return_index=True, return_inverse=True)
    twin = np.full(num_decode, -1)
    for kind in range(first.size):
        alike = np.flatnonzero((group.ravel() == kind) & (bound_here == 0))
        twin[alike[1:]] = alike[:-1]
    return twin


def _decision(pool: Pool, nodes: Listed, best: Best) -> Decision:
    problem = pool.problem
    prefill, decode = pool.incumbent.prefill.copy(), pool.incumbent.decode.copy()
    start = pool.incumbent.decode_start.copy()
    decode[pool.calls] = best.decode
    for machine, node in enumerate(best.queue.tolist()):
        while nodes.call[node] >= 0:
            m = nodes.call[node]
            prefill[pool.calls[m]] = pool.machine[machine]
            start[pool.calls[m]] = nodes.end[node] - pool.ticks[pool.machine_kind[machine], m]
            node = nodes.parent[node]
    return timetable(problem, np.argsort(start, kind="stable"), prefill, decode, compiled=True)


@kernel
def _list_queues(
    room: float, ticks: Ints, release: Ints, opens: Ints, first: Ints, prices: Floats, worth: Floats, rows: Floats,
    nodes: Listed,
) -> int:  # fmt: skip
    """Shorter queues first, as long as the cheapest continuation stays within `room`; -1 if there are too many."""
    num_calls, size, most = ticks.shape[1], prices.shape[2], nodes.call.size
    count = 0
    for k in range(ticks.shape[0]):
        for i in range(first[k], first[k + 1]):
            if count == most:
                return -1
            cheapest = min(0.0, rows[k, 0, opens[i]]) if opens[i] < size else 0.0
            nodes.parent[count], nodes.call[count], nodes.end[count], nodes.calls[count] = -1, -1, opens[i], 0
            nodes.machine[count], nodes.price[count] = i, -cheapest
            now, count = count, count + 1
            while now < count:
                for m in range(num_calls):
                    if ticks[k, m] <= 0 or (nodes.calls[now] >> m) & 1:
                        continue
                    end = max(nodes.end[now], release[m]) + ticks[k, m]
                    here = prices[m, k, min(end, size - 1)]
                    price = nodes.price[now] + here - worth[m]
                    behind = 0.0
                    if end < size:
                        behind = min(0.0, rows[k, 1, end] if rows[k, 2, end] == m else rows[k, 0, end])
                    if here >= FORBIDDEN or price + behind > room:
                        continue
                    if count == most:
                        return -1
                    nodes.parent[count], nodes.call[count], nodes.end[count] = now, m, end
                    nodes.calls[count], nodes.machine[count] = nodes.calls[now] | (np.int64(1) << m), i
                    nodes.price[count] = price
                    count += 1
                now += 1
    return count
