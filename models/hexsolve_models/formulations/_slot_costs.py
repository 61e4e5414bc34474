"""What the finishes of a time-indexed model cost: columns, rows and prices. Knows objectives; knows no starts.

A workflow with one call has f_w(finish + tail) as the price of the columns that finish it. Several calls share a
staircase over ticks t_0 < t_1 < ...: u[i] >= sum of the columns of c with finish + tail >= t_i for every call c, at the
price f_w(t_i) - f_w(t_i-1). Any non-decreasing f_w is exact on the ticks; steps included.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from hexsolve_models.formulation import NumberRangeError
from hexsolve_models.grouped import least, most, ragged
from hexsolve_models.matrix import Draft, Floats
from hexsolve_models.objective import Ints, Objective
from hexsolve_models.problem import Problem
from hexsolve_models.slots import Homes, Slots

LARGEST = 2.0**43  # costs below this survive the 13 digits of an MPS file


def cost_of(
    draft: Draft,
    problem: Problem,
    objective: Objective,
    column: Ints,
    call: Ints,
    finish: Ints,
    homes: Homes,
    home_column: Ints,
    slots: Slots,
) -> tuple[Ints, Floats, int]:
    """(columns, factors, constant) of the cost if each call finishes by the `finish` of its column; each column once.

    With "max" it contains a column z >= the price of every workflow.

    Raises
    ------
    NumberRangeError
        If costs could reach 2^43.
    """
    workflow, end = problem.workflow[call], finish + objective.tail_ticks[call]
    earliest = least(call, finish, problem.num_calls)
    # No F_w is below `first`, since every call has one of its columns.
    first = most(problem.workflow, earliest + objective.tail_ticks, problem.num_workflows)
    everyone = np.arange(problem.num_workflows)
    base = _costs(objective, everyone, first)
    roof = _costs(objective, everyone, most(workflow, end, problem.num_workflows))
    own_base = int(objective.call_weight @ earliest)
    own = objective.call_weight[call] * (finish - earliest[call])
    own_later = objective.call_weight[homes.call] * homes.delay

    num_calls = np.bincount(problem.workflow, minlength=first.size)
    is_alone = (num_calls == 1)[workflow]
    dearer = _costs(objective, workflow[is_alone], end[is_alone]) - base[workflow[is_alone]]
    terms = [(workflow[is_alone], column[is_alone], dearer.astype(np.float64))]
    home = problem.workflow[homes.call]
    delayed = np.flatnonzero((num_calls == 1)[home])
    # The convex part of f_w rises least at its earliest tick, the step does not fall.
    tick, delay = first[home[delayed]], homes.delay[delayed]
    later = _convex(objective, home[delayed], tick + delay) - _convex(objective, home[delayed], tick)
    terms.append((home[delayed], home_column[delayed], later.astype(np.float64)))
    roof += most(home[delayed], later, first.size).clip(min=0)
    _check_range(
        objective, base, roof, own_base + float(own.max(initial=0) + own_later.max(initial=0)) * problem.num_calls
    )
    for w in np.unique(workflow[~is_alone]).tolist():
        here = np.flatnonzero(workflow == w)
        ticks = _thresholds(objective, w, int(first[w]), end[here], slots)
        rise = np.diff(_costs(objective, np.full(ticks.size, w), ticks), prepend=base[w])
        stairs = _staircase(draft, ticks[rise > 0], column[here], call[here], end[here])
        terms.append((np.full(stairs.size, w), stairs, rise[rise > 0].astype(np.float64)))
    shared = [np.concatenate(parts) for parts in zip(*terms, strict=True)]
    constant = int(base.sum()) + own_base
    if objective.aggregate == "max":
        shared = _largest(draft, *shared, base=base, roof=int(roof.max(initial=0)))
        constant = int(base.max(initial=0)) + own_base
    columns, place = np.unique(np.concatenate([column, home_column, shared[1]]), return_inverse=True)
    factors = np.bincount(place, weights=np.concatenate([own, own_later, shared[2]]), minlength=columns.size)
    return columns, factors.astype(np.float64), constant


def _thresholds(objective: Objective, w: int, first: int, end: Ints, slots: Slots) -> Ints:
    """Ticks after `first` at which to notice that w ends then or later: all there are, or one per slot and the step."""
    if slots.is_exact:
        return np.unique(end[end > first])
    last = end.max()
    begins = first + slots.first(np.arange(1, int(slots.of(last - first)) + 1))
    ticks = np.append(begins, objective.due_tick[w] + 1)
    return np.unique(ticks[(ticks > first) & (ticks <= last)])


def _staircase(draft: Draft, ticks: Ints, column: Ints, call: Ints, end: Ints) -> Ints:
    """Columns u[i] >= sum of the columns of a call with end >= ticks[i], for each call."""
    u = draft.columns(ticks.size)
    step = np.searchsorted(ticks, end, side="right") - 1  # the last tick that the column reaches
    column, call, step = (values[step >= 0] for values in (column, call, step))
    calls, block = np.unique(call, return_inverse=True)
    top = most(block, step, calls.size)
    # For each call from its last tick down: running sums over the columns that reach it.
    owner, down = ragged(np.zeros_like(top), top)
    sums = draft.running_sums(owner, np.searchsorted(owner, block) + top[block] - step, column, 1.0, 1.0)
    place, stair = np.arange(owner.size), u[top[owner] - down]
    pair = np.concatenate([place, place]), np.concatenate([stair, sums])
    draft.rows(owner.size, *pair, np.repeat([1.0, -1.0], owner.size), lower=0)
    draft.fills.append(lambda values: np.maximum.at(values, stair, values[sums]))
    return u


def _largest(
    draft: Draft, workflow: Ints, column: Ints, factor: Floats, *, base: Ints, roof: int
) -> list[npt.NDArray[Any]]:
    """A column z >= base[w] + sum of factor * column of w, for every w, counted from the largest base."""
    floor, every = base - base.max(initial=0), np.arange(base.size)
    z = draft.columns(1, upper=max(0, roof - int(base.max(initial=0))))
    row, columns = np.concatenate([every, workflow]), np.concatenate([np.repeat(z, base.size), column])
    draft.rows(base.size, row, columns, np.concatenate([np.ones(base.size), -factor]), lower=floor)

    def fill(values: Floats) -> None:
        price = floor + np.bincount(workflow, weights=factor * values[column], minlength=base.size)
        values[z] = price.max(initial=0.0)

    draft.fills.append(fill)
    return [np.zeros_like(z), z, np.ones(1)]


def _costs(objective: Objective, workflow: Ints, tick: Ints) -> Ints:
    """f_w(tick) for each pair."""
    late = np.where(tick > objective.due_tick[workflow], objective.late_weight[workflow], 0)
    costs: Ints = _convex(objective, workflow, tick) + late
    return costs


def _convex(objective: Objective, workflow: Ints, tick: Ints) -> Ints:
    """f_w(tick) without the step."""
    slope = objective.slope[workflow]
    if (slope.astype(np.float64) * tick[:, None]).max(initial=0) >= 2.0**62:
        raise NumberRangeError("costs can reach 2^62: expected below 2^43; lower the objective's scale")
    costs: Ints = (slope * tick[:, None] + objective.intercept[workflow]).max(axis=1)
    return costs


def _check_range(objective: Objective, base: Ints, roof: Ints, own: float) -> None:
    worst = np.maximum(np.abs(base), np.abs(roof)).astype(np.float64)
    largest = float(worst.max(initial=0) if objective.aggregate == "max" else worst.sum()) + own
    if largest >= LARGEST:
        raise NumberRangeError(f"costs can reach {largest:.3g}: expected below 2^43; lower the objective's scale")
