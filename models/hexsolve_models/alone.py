"""Every call as if it were the only one waiting, and what finishes cost. Knows `Problem` and its objectives; knows no
queue and no solver. Proofs in models/README.md §5.
"""

from dataclasses import dataclass
from functools import cached_property
from operator import mul
from typing import Any

import numpy as np
import numpy.typing as npt

from hexsolve_models.flat import Flat
from hexsolve_models.jit import kernel
from hexsolve_models.objective import Ints, Objective
from hexsolve_models.problem import Problem

NEVER = 2**60
SAFE = 2.0**62  # integers below this leave room for one sum in int64


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
        _via_prefill(self.problem.flat, bound_here_of(self.problem), self.finish, self.via_decode, via)
        return via

    def workflow_finish(self, problem: Problem) -> Ints:
        """[W] lower bound of F_w."""
        return last_of(problem, self.finish, problem.objective)


def standalone(problem: Problem) -> Standalone:
    """Earliest finishes of each call alone."""
    finish = np.full(problem.num_calls, NEVER, dtype=np.int64)
    via_decode = np.full((problem.num_calls, problem.num_decode), NEVER, dtype=np.int64)
    after_prefill = np.zeros(problem.num_calls, dtype=np.int64)
    _alone(problem.flat, problem.topological, bound_here_of(problem), finish, via_decode, after_prefill)
    return Standalone(problem, finish, via_decode, after_prefill)


def cost_at(problem: Problem, finish: Ints, objective: Objective | None = None) -> int:
    """The cost if call c were done at finish[c], exactly, in a few array passes."""
    objective = objective or problem.objective
    costs = workflow_costs(objective, last_of(problem, finish, objective)).tolist()
    return together(objective, costs) + own_cost(objective, finish)


def workflow_costs(objective: Objective, finish: Ints) -> npt.NDArray[Any]:
    """[W] f_w(finish[w]); Python integers where int64 could overflow."""
    largest = float(objective.slope.max(initial=0)) * float(finish.max(initial=0))
    largest += float(np.abs(objective.intercept).max(initial=0)) + float(objective.late_weight.max(initial=0))
    dtype = np.int64 if largest < SAFE else object
    slope, intercept = objective.slope.astype(dtype), objective.intercept
    late = np.where(finish > objective.due_tick, objective.late_weight, 0)
    costs: npt.NDArray[Any] = (slope * finish[:, None] + intercept).max(axis=1) + late
    return costs


def together(objective: Objective, costs: list[Any]) -> int:
    """Sum or largest of the workflows' costs, as the objective has it."""
    whole: int = max(costs, default=0) if objective.aggregate == "max" else sum(costs)
    return whole


def own_cost(objective: Objective, finish: Ints) -> int:
    own: int = sum(map(mul, objective.call_weight.tolist(), finish.tolist()))
    return own


def last_of(problem: Problem, finish: Ints, objective: Objective) -> Ints:
    """[W] largest finish + tail of the calls of each workflow."""
    last = np.zeros(problem.num_workflows, dtype=np.int64)
    np.maximum.at(last, problem.workflow, finish + objective.tail_ticks)
    return last


def bound_here_of(problem: Problem) -> Ints:
    """[D] calls that decode there whatever is decided."""
    return np.bincount(problem.locked_decode[~problem.is_free], minlength=problem.num_decode)


def least_crowding(problem: Problem) -> Ints:
    """[N, D] ticks a call takes longer beside those bound to the replica."""
    count = bound_here_of(problem)[None, :] + problem.is_free[:, None]
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
                for d in range(f.capacity.size):  # where a call may not decode, `via_decode` is NEVER
                    moving = f.base[p, d] + ((f.rate[p, d] * f.moved[c] + 1023) >> 10)
                    ticks = f.decode[c, d] + f.crowding[c, d] * max(0, bound_here[d] + 1 - f.uncrowded[d])
                    via[c, p] = min(via[c, p], max(ready + moving + ticks, via_decode[c, d]))
