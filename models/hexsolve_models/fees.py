"""Fees of crowded decode replicas: a bound that knows that calls slow each other down. Knows calls alone and their
workflows' costs; knows no queue and no solver. Proof in models/README.md §5.2.

A replica collects one fee, in equal parts, from the calls that decode there. So a call may choose its replica and how
many it shares it with as it likes, but few companions are dear. What all calls pay at least, less the fees, is a bound.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from hexsolve_models.alone import Standalone, bound_here_of, last_of, workflow_costs
from hexsolve_models.curves import Curves
from hexsolve_models.flat import Flat, read_only
from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem

Floats = npt.NDArray[np.float64]

EXACT = 2.0**53  # integers below this are exact as doubles
_TABLE = 60_000  # costs looked up at most: 1 ms
_LEVELS = 24  # companies told apart at most
_FEWEST_LEVELS = 4
_ROUNDS = 24
_STEP, _DECAY, _LEAST_CHANGE, _MOST_CHANGE = 0.7, 0.25, 0.2, 5.0  # of a fee in one round


@dataclass(frozen=True, eq=False)
class Fees:
    """Fees and what calls pay at least. All floats are integers, exactly.

    fee
        [D] fee of each replica.
    first, last
        [L] calls on a replica, by level: first[l]..last[l].
    paid
        [W] least cost of each workflow in its calls' choices, their parts of the fees and call weights included.
    least
        [N] the same of each call if its workflow's cost did not count.
    most_later
        Ticks by which any choice makes a call later than its earliest finish, at most.
    """

    fee: Ints
    first: Ints
    last: Ints
    paid: Floats
    least: Floats
    most_later: int

    @property
    def total(self) -> int:
        """What the replicas collect at most."""
        return int(self.fee.sum())

    @cached_property
    def part(self) -> Floats:
        """[D, L] what each call pays on a replica."""
        return (self.fee[:, None] // self.last).astype(np.float64)


def fees(problem: Problem, alone: Standalone, curves: Curves) -> Fees | None:
    """Fees that make a good bound, or None where crowding, the objective or the numbers give no reason for any."""
    n, num_decode = problem.decode_ticks.shape
    most_levels = min(_LEVELS, _TABLE // (n * num_decode))
    if not problem.is_crowdable or problem.objective.aggregate == "max" or n < 2 or most_levels < _FEWEST_LEVELS:
        return None
    farthest = np.where(problem.decode_allowed, alone.via_decode, alone.finish[:, None]).max(axis=1)
    most_later = int((farthest - alone.finish).max()) + n * int(problem.crowding_ticks.max())
    longest = last_of(problem, alone.finish + most_later, problem.objective)
    dearest = float(np.abs(workflow_costs(problem.objective, longest)).max())
    if (dearest + float(longest.max()) * float(problem.objective.call_weight.max())) * n >= EXACT:
        return None
    first, last = _levels(n, most_levels)
    speaks = _speakers(problem, alone)
    table, own = np.full((2, n, num_decode, first.size), np.inf)
    _tabulate(
        problem.flat, bound_here_of(problem), alone.finish, alone.via_decode, first, speaks,
        read_only(problem.workflow), read_only(problem.objective.tail_ticks), read_only(problem.objective.call_weight),
        curves, table, own,
    )  # fmt: skip
    fee = _first_fees(table, first, n)
    paid, least = np.zeros((2, n))
    _raise_fees(table, last, fee, paid)
    part = (fee[:, None] // last).astype(np.float64)
    _pay(own, part, least)
    by_workflow = np.zeros(problem.num_workflows)
    np.add.at(by_workflow, problem.workflow, paid)
    return Fees(fee, first, last, by_workflow, least, most_later)


@cache
def _levels(num_calls: int, most: int) -> tuple[Ints, Ints]:
    """Numbers of calls in `most` ranges, each about as many times longer as the one before."""
    if num_calls <= most:
        return np.arange(1, num_calls + 1), np.arange(1, num_calls + 1)
    first = np.unique(np.rint(np.geomspace(1, num_calls + 1, most + 1)).astype(np.int64))
    return first[:-1], first[1:] - 1


def _speakers(problem: Problem, alone: Standalone) -> npt.NDArray[np.bool_]:
    """[N]: the call of each workflow that would finish it last stands for its cost."""
    finish = alone.finish + problem.objective.tail_ticks
    by_finish = np.lexsort((finish, problem.workflow))
    speaks = np.zeros(problem.num_calls, dtype=np.bool_)
    speaks[by_finish[np.append(np.diff(problem.workflow[by_finish]) != 0, True)]] = True
    return speaks


def _first_fees(table: Floats, first: Ints, num_calls: int) -> Ints:
    """Equal fees, as they would be if calls were spread evenly: the company's loss by one call more, times its size."""
    num_decode = table.shape[1]
    here = min(int(np.searchsorted(first, -(-num_calls // num_decode))), first.size - 2)
    cheapest = table[:, :, here : here + 2].min(axis=1)
    loss = float((cheapest[:, 1] - cheapest[:, 0]).sum()) / float(first[here + 1] - first[here])
    return np.full(num_decode, max(1, int(loss * float(first[here]) / num_decode)), dtype=np.int64)


@kernel
def _tabulate(
    f: Flat, bound_here: Ints, finish: Ints, via_decode: Ints, first: Ints, speaks: npt.NDArray[np.bool_],
    workflow: Ints, tail: Ints, weight: Ints, curves: Curves, table: Floats, own: Floats,
) -> None:  # fmt: skip
    """Cost [N, D, L] of a call on a replica with so many calls, its workflow's included if it stands for it, and own
    [N, D, L] without it."""
    for c in range(finish.size):
        w = workflow[c]
        for d in range(f.capacity.size):
            if f.decode[c, d] < 0:
                continue
            free_of_charge = max(f.uncrowded[d], bound_here[d] + (1 if f.locked[c] < 0 else 0))
            k = 0
            for i in range(first.size):
                end = via_decode[c, d] + f.crowding[c, d] * max(0, first[i] - free_of_charge)
                own[c, d, i] = weight[c] * (end - finish[c])
                table[c, d, i] = own[c, d, i]
                if speaks[c]:
                    last = end + tail[c]
                    while k + 1 < curves.num[w] and curves.since[w, k + 1] <= last:
                        k += 1
                    table[c, d, i] += curves.slope[w, k] * last + curves.intercept[w, k]
                    if last > curves.due[w]:
                        table[c, d, i] += curves.late[w]


@kernel
def _pay(table: Floats, part: Floats, paid: Floats) -> None:
    """paid[c]: the cheapest choice of each call."""
    for c in range(paid.size):
        paid[c] = np.inf
        for d in range(part.shape[0]):
            for i in range(part.shape[1]):
                paid[c] = min(paid[c], table[c, d, i] + part[d, i])


@kernel
def _raise_fees(table: Floats, last: Ints, fee: Ints, paid: Floats) -> None:
    """Fill `fee` and `paid` with the best of some rounds: a replica that would collect more than its fee raises it."""
    n, num_decode, num_levels = table.shape
    now, best = fee.astype(np.float64), -np.inf
    got, part, pays = np.zeros(num_decode), np.zeros((num_decode, num_levels)), np.zeros(n)
    for turn in range(_ROUNDS):
        bound = 0.0
        for d in range(num_decode):
            got[d] = 0.0
            bound -= np.floor(now[d])
            for i in range(num_levels):
                part[d, i] = int(now[d]) // last[i]
        for c in range(n):
            least, replica, level = np.inf, 0, 0
            for d in range(num_decode):
                for i in range(num_levels):
                    if table[c, d, i] >= least:
                        break  # a larger company is no faster
                    price = table[c, d, i] + part[d, i]
                    if price < least:
                        least, replica, level = price, d, i
            pays[c] = least
            bound += least
            got[replica] += 1.0 / last[level]
        if bound > best:
            best = bound
            paid[:] = pays
            for d in range(num_decode):
                fee[d] = int(now[d])
        for d in range(num_decode):
            change = 1.0 + _STEP * (got[d] - 1.0) / (1.0 + _DECAY * turn)
            now[d] = max(1.0, now[d] * min(_MOST_CHANGE, max(_LEAST_CHANGE, change)))
