"""The prefill pool of a problem as machines, jobs and prices of their ends. Knows `Problem` and an incumbent; knows no
multipliers' values and no bound. Symbols and proofs: models/README.md §11.1.

Left of the problem: every free call is done once on a prefill replica (unrelated machines, one call at a time), then
follows its shortest transfer and decode. What a call costs depends on when its prefill ends, alone.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hexsolve_models.alone import NEVER, cost_at, least_crowding, standalone
from hexsolve_models.decision import Decision
from hexsolve_models.flat import first_of
from hexsolve_models.objective import Ints
from hexsolve_models.problem import RATE_BLOCKS, Problem
from hexsolve_models.relaxations.prices import FULL, LEVELS, Bends, Floats, Menu, bends, fill_prices
from hexsolve_models.windows import time_windows

_MOST_SCALE = 16  # more makes what the others lose by one call more too large for a rent


@dataclass(frozen=True, eq=False)
class Pool:
    """M free calls on K kinds of machine; ends at 0..T steps of `step` ticks. All floats are integers, exactly.

    Attributes
    ----------
    base : standalone cost of everything, in cost units; prices count what comes on top.
    known : cost of the incumbent.
    scale : price units per cost unit; a power of two below 1, or an integer.
    calls : [M] free calls of the problem.
    flow : [M] workflow of each.
    ticks : [K, M] prefill steps, rounded down, 0 if shorter than a step, -1 if not allowed.
    release : [M] first step a prefill may start at, rounded down.
    machine, machine_kind, opens : [P] prefill replica, kind and first free step of each machine, by kind and step.
    first : [K + 1] where the machines of each kind begin.
    kind : [P] kind of each prefill replica.
    after : [K, M] fewest ticks from prefill end to finish; `by_decode` [K, M, D] the same on each decode replica,
        beside as few others as possible, `NEVER` where it may not decode.
    earliest : [K, M] first tick it can finish at through a kind.
    latest : [M] tick some optimum finishes it by.
    tail : [M] ticks from its finish to F_w, at least, calls that wait for it included.
    alone : [M] first tick it can finish at; `own` [M] price of every tick after that.
    bends : what F_w costs, by workflow.
    is_shared : [M] the workflow has several free calls.
    step, grain, last_step : ticks of a step, ticks to which finishes are rounded while prices are made, and T.
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
    flow: Ints
    ticks: Ints
    release: Ints
    machine: Ints
    machine_kind: Ints
    opens: Ints
    first: Ints
    kind: Ints
    after: Ints
    by_decode: Ints
    earliest: Ints
    latest: Ints
    tail: Ints
    alone: Ints
    own: Floats
    bends: Bends
    is_shared: npt.NDArray[np.bool_]
    level: Floats

    @cached_property
    def plain_menu(self) -> Menu:
        """The fewest ticks, for nothing."""
        price, number = np.zeros((*self.after.shape, 1)), np.ones_like(self.after)
        return Menu(self.after[:, :, None], price, number, np.zeros(self.flow.size), 0 * self.flow)

    def prices(self, share: Floats, menu: Menu, prices: Floats, only_shared: bool = False) -> None:
        """Fill [M, K, T + 1] with the price of each call ending its prefill at a step; `FORBIDDEN` outside its window.

        `share` [M, LEVELS] says which part of each level of f_w the call stands for; 1 in all over the calls of w.
        """
        fill_prices(
            prices, share, self.level, self.is_shared, only_shared, self.flow, self.step, self.grain, self.ticks, menu,
            self.earliest, self.latest, self.tail, self.alone, self.own, self.bends,
        )  # fmt: skip

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
    windows = time_windows(problem, incumbent, alone)
    latest = np.array(windows.latest, dtype=np.int64)
    kinds, kind = _kinds(problem, calls)
    ticks = np.ascontiguousarray(problem.flat.prefill[calls].T[kinds])
    by_decode = _after_prefill(problem, calls, kinds)
    after = by_decode.min(axis=2)
    via = alone.via_prefill[calls].T
    earliest = np.stack([via[kind == k].min(axis=0) for k in range(kinds.size)])
    last_tick = _last_end(problem, incumbent, calls, ticks, latest[calls] - after)
    step = max(1, -(-ticks.size * (last_tick + 1) // most_cells))
    by_kind = np.lexsort((problem.prefill_free_tick, kind))
    scale = _scale(known - base)
    tail = _tails(problem, alone.after_prefill)
    shared = np.bincount(problem.workflow[calls], minlength=problem.num_workflows) > 1
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
        flow=problem.workflow[calls],
        ticks=np.where(ticks > 0, ticks // step, -1),
        release=_heads(problem, alone.finish)[calls] // step,
        machine=by_kind,
        machine_kind=kind[by_kind],
        opens=problem.prefill_free_tick[by_kind] // step,
        first=first_of(kind, kinds.size),
        kind=kind,
        after=after,
        by_decode=by_decode,
        earliest=earliest,
        latest=latest[calls],
        tail=tail[calls],
        alone=alone.finish[calls],
        own=np.floor(problem.objective.call_weight[calls] * scale),
        bends=bends(problem, tail, alone.finish, latest, scale),
        is_shared=shared[problem.workflow[calls]],
        level=np.concatenate([[0.0], np.rint(np.geomspace(FULL / 300, FULL, LEVELS - 1)), [2 * FULL]]),
    )


def _scale(slack: int) -> float:
    if slack <= FULL:
        return float(min(int(FULL) // slack, _MOST_SCALE))
    return 0.5 ** (slack.bit_length() - 28)


def _kinds(problem: Problem, calls: Ints) -> tuple[Ints, Ints]:
    """[K] one prefill replica of each kind, and [P] kinds: alike but for the tick they are free from."""
    key = np.vstack([problem.prefill_ticks[calls], problem.transfer_base_ticks.T, problem.transfer_rate_ticks.T])
    _, kinds, kind = np.unique(key, axis=1, return_index=True, return_inverse=True)
    return kinds, kind.ravel()


def _after_prefill(problem: Problem, calls: Ints, kinds: Ints) -> Ints:
    """[K, M, D] ticks from prefill end to finish beside as few others as possible; `NEVER`: not allowed."""
    flat = problem.flat
    rate, moved = flat.rate[kinds][:, None, :], flat.moved[calls][:, None]
    ticks = flat.decode[calls] + least_crowding(problem)[calls]
    after = flat.base[kinds][:, None, :] - (-rate * moved // RATE_BLOCKS) + ticks
    return np.ascontiguousarray(np.where(problem.decode_allowed[calls], after, NEVER))


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
    """[N] least ticks from a finish to F_w: the tail, or lag, prefill, decode and tail of a call that waits for it."""
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
