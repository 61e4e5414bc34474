"""The prefill pool of a problem as machines, jobs and prices of their ends. Knows `Problem` and an incumbent; knows no
multipliers' values and no bound. Symbols and proofs: models/README.md §9.1.

Left of the problem: every free call is done once on a prefill replica (unrelated machines, one call at a time), then
follows its shortest transfer and decode. What a call costs depends on when its prefill ends, alone.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hexsolve_models.alone import NEVER, SAFE, cost_at, least_crowding, standalone
from hexsolve_models.decision import Decision
from hexsolve_models.flat import first_of, read_only
from hexsolve_models.objective import Ints
from hexsolve_models.problem import RATE_BLOCKS, Problem
from hexsolve_models.relaxations_prices import (
    FORBIDDEN,
    LEVELS,
    Curves,
    Ends,
    Floats,
    Menu,
    bends,
    fill_prices,
    rounded_shares,
)
from hexsolve_models.windows import time_windows

_FULL = 2.0**28  # the incumbent's cost above the standalone bound, as prices count it
_MOST_STEPS = 2**21  # with multipliers below 2^30 every sum along a queue is exact


class OutOfRangeError(Exception):
    """Numbers so large that prices would not be exact."""


@dataclass(frozen=True, eq=False)
class Pool:
    """M free calls on K kinds of machine; prefills end at steps 0..T of `step` ticks.

    Attributes
    ----------
    base : standalone cost of everything, in cost units; prices count what comes on top.
    known : cost of the incumbent.
    scale : price units per cost unit; an integer, or a power of two below 1.
    step, grain, last_step : ticks per step of an end, ticks to which finishes are rounded down, and T.
    calls : [M] free calls of the problem.
    ends : what prefill ends mean; `ends.ticks` [K, M] are steps, rounded down, 0 if shorter than a step.
    release : [M] first step a prefill may start at, rounded down.
    machine, machine_kind, opens : [P] prefill replica, kind and first free step of each machine, by kind and step.
    first : [K + 1] where the machines of each kind begin.
    kind : [P] kind of each prefill replica.
    after : [K, M, D] ticks from the end of a prefill to the finish beside as few other calls as possible; `NEVER` where
        not allowed.
    curves : costs of workflows.
    is_shared : [M] the workflow has several free calls.
    level : [LEVELS + 1] where the parts of a shared cost begin, in price units.
    """

    problem: Problem
    incumbent: Decision
    base: int
    known: int
    scale: float
    step: int
    grain: int
    last_step: int
    calls: Ints
    ends: Ends
    release: Ints
    machine: Ints
    machine_kind: Ints
    opens: Ints
    first: Ints
    kind: Ints
    after: Ints
    curves: Curves
    is_shared: npt.NDArray[np.bool_]
    level: Floats

    @cached_property
    def even_shares(self) -> Floats:
        """[M, LEVELS] of a workflow's cost, the same for each of its calls; 1 for an only call."""
        count = np.bincount(self.ends.flow)[self.ends.flow]
        return rounded_shares(np.repeat(1.0 / count[:, None], LEVELS, axis=1))

    @cached_property
    def plain_menu(self) -> Menu:
        """The fewest ticks after a prefill, for nothing."""
        soonest = self.after.min(axis=2, keepdims=True)
        number = np.ones(soonest.shape[:2], dtype=np.int64)
        return Menu(soonest, np.zeros(soonest.shape), number, np.zeros(self.calls.size), np.zeros_like(self.calls))

    @cached_property
    def incumbent_kind(self) -> Ints:
        """[M] kind of machine that the incumbent gives each call."""
        kind: Ints = self.kind[self.incumbent.prefill[self.calls]]
        return kind

    @cached_property
    def incumbent_end(self) -> Ints:
        """[M] tick at which each call ends its prefill in the incumbent."""
        ticks = self.problem.prefill_ticks[self.calls, self.incumbent.prefill[self.calls]]
        end: Ints = self.incumbent.prefill_start[self.calls] + ticks
        return end

    def new_prices(self) -> Floats:
        """[M, K, T + 1] all `FORBIDDEN`."""
        return np.full((self.calls.size, self.ends.ticks.shape[0], self.last_step + 1), FORBIDDEN)

    def fill(self, prices: Floats, share: Floats, menu: Menu, *, only_shared: bool = False) -> None:
        """Fill [M, K, T + 1]: the price of call m ending its prefill on a kind at a step; `FORBIDDEN` outside its window.

        `share` [M, LEVELS] says which part of each level of f_w the call stands for; 1 in all over the calls of w.
        `only_shared` leaves calls alone in their workflow as they are.
        """
        fill_prices(
            prices, self.step, self.grain, only_shared, self.is_shared, share, self.level, self.curves, menu, self.ends
        )

    def cost(self, price: float) -> int:
        """Cost of a total price above the standalone one, rounded up where costs are integers."""
        if self.scale >= 1.0:
            return self.base - int(-price // int(self.scale))
        return self.base + int(price / self.scale)


def pool_of(problem: Problem, incumbent: Decision, most_cells: int) -> Pool | None:
    """The pool; None if no call waits for prefill or the incumbent costs no more than the standalone bound.

    Parameters
    ----------
    incumbent
        A feasible decision, caps apart. Ends at which some call would cost more than the whole incumbent are left out.
    most_cells
        Prices to compute at most; steps become as long as that needs.

    Raises
    ------
    OutOfRangeError
        If costs cannot be added up exactly.
    """
    calls = np.flatnonzero(problem.is_free)
    alone = standalone(problem)
    base, known = cost_at(problem, alone.finish), cost_at(problem, incumbent.decode_finish(problem))
    if not calls.size or known <= base:
        return None
    latest = np.array(time_windows(problem, incumbent, alone).latest, dtype=np.int64)
    kinds, kind = _kinds(problem, calls)
    ticks = np.ascontiguousarray(problem.flat.prefill[calls].T[kinds])
    after = _after_prefill(problem, calls, kinds)
    via = alone.via_prefill[calls].T
    earliest = np.stack([via[kind == k].min(axis=0) for k in range(kinds.size)])
    last_tick = _last_end(problem, incumbent, calls, ticks, latest[calls] - after.min(axis=2))
    step = max(1, -(-ticks.size * (last_tick + 1) // most_cells), last_tick // _MOST_STEPS)
    by_kind = np.lexsort((problem.prefill_free_tick, kind))
    scale = _scale(known - base)
    tail = _tails(problem, alone.after_prefill)
    flow = problem.workflow[calls]
    ends = Ends(
        flow=flow,
        ticks=np.where(ticks > 0, ticks // step, -1),
        earliest=earliest,
        latest=latest[calls],
        tail=tail[calls],
        alone=alone.finish[calls],
        own=np.floor(problem.objective.call_weight[calls] * scale),
    )
    return Pool(
        problem=problem,
        incumbent=incumbent,
        base=base,
        known=known,
        scale=scale,
        step=step,
        grain=max(1, step // 4),
        last_step=last_tick // step,
        calls=calls,
        ends=ends,
        release=_heads(problem, alone.finish)[calls] // step,
        machine=by_kind,
        machine_kind=kind[by_kind],
        opens=problem.prefill_free_tick[by_kind] // step,
        first=first_of(kind, kinds.size),
        kind=kind,
        after=after,
        curves=_curves(problem, alone.finish + tail, latest + tail, scale),
        is_shared=np.bincount(flow)[flow] > 1,
        level=np.concatenate([[0.0], np.rint(np.geomspace(_FULL / 300, _FULL, LEVELS - 1)), [2 * _FULL]]),
    )


def _scale(slack: int) -> float:
    if slack <= _FULL:
        return float(min(int(_FULL) // slack, 2**20))
    return 0.5 ** (slack.bit_length() - 28)


def _kinds(problem: Problem, calls: Ints) -> tuple[Ints, Ints]:
    """[K] one prefill replica of each kind, and [P] kinds: alike but for the tick they are free from."""
    key = np.vstack([problem.prefill_ticks[calls], problem.transfer_base_ticks.T, problem.transfer_rate_ticks.T])
    _, kinds, kind = np.unique(key, axis=1, return_index=True, return_inverse=True)
    return kinds, kind.ravel()


def _after_prefill(problem: Problem, calls: Ints, kinds: Ints) -> Ints:
    """[K, M, D] see `Pool.after`."""
    moved = problem.transfer_blocks[calls][None, :, None]
    rate = problem.transfer_rate_ticks[kinds][:, None, :]
    lag = problem.transfer_base_ticks[kinds][:, None, :] - (-rate * moved // RATE_BLOCKS)
    ticks = (problem.decode_ticks + least_crowding(problem))[calls]
    return np.where(problem.decode_allowed[calls], lag + ticks, NEVER)


def _last_end(problem: Problem, incumbent: Decision, calls: Ints, ticks: Ints, latest: Ints) -> int:
    """Last tick at which ends have a price of their own: what is later counts as if it were then."""
    ends = incumbent.prefill_start[calls] + problem.prefill_ticks[calls, incumbent.prefill[calls]]
    typical = int(np.median(ticks[ticks > 0]))
    return max(0, min(int(ends.max()) + typical, int(latest[ticks > 0].max())))


def _heads(problem: Problem, finish: Ints) -> Ints:
    """[N] first tick a prefill can start at, given when the calls it waits for can be done."""
    head = problem.release_tick.copy()
    np.maximum.at(head, problem.edge_after, finish[problem.edge_before] + problem.edge_lag)
    return head


def _tails(problem: Problem, after_prefill: Ints) -> Ints:
    """[N] ticks from a finish to F_w at least: the tail, or lag, prefill, decode and tail of a call that waits for it."""
    tail = problem.objective.tail_ticks.copy()
    if not problem.edge_before.size:
        return tail
    shortest = np.where(problem.prefill_allowed, problem.prefill_ticks, NEVER).min(axis=1)
    place = np.empty_like(problem.topological)
    place[problem.topological] = np.arange(place.size)
    for e in np.argsort(-place[problem.edge_after], kind="stable").tolist():
        before, after = problem.edge_before[e], problem.edge_after[e]
        if problem.workflow[before] == problem.workflow[after]:
            through = problem.edge_lag[e] + shortest[after] + after_prefill[after] + tail[after]
            tail[before] = max(tail[before], through)
    return tail


def _curves(problem: Problem, first: Ints, last: Ints, scale: float) -> Curves:
    """f_w from the first to the last possible F_w."""
    objective = problem.objective
    start, end = np.zeros((2, problem.num_workflows), dtype=np.int64)
    np.maximum.at(start, problem.workflow, first)
    np.maximum.at(end, problem.workflow, last)
    largest = float(objective.slope.max(initial=0)) * float(end.max(initial=0))
    largest += float(np.abs(objective.intercept).max(initial=0)) + float(objective.late_weight.max(initial=0))
    if largest >= SAFE:
        raise OutOfRangeError(f"costs can reach {largest:.3g}: expected below 2^62")
    shape = problem.num_workflows, objective.slope.shape[1] + 2
    tick = np.full(shape, NEVER, dtype=np.int64)
    price, slope = np.zeros((2, *shape), dtype=np.int64)
    parts = objective.slope, objective.intercept, objective.due_tick, objective.late_weight
    bends(*map(read_only, parts), start, end, tick, price, slope)
    return Curves(tick, *(np.floor(np.minimum(values * scale, 4 * _FULL)) for values in (price, slope)))
