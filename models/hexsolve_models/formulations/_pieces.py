"""What of an objective is left open by the time windows: live cost pieces, open steps. Knows no solver."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hexsolve_models.formulation import NumberRangeError
from hexsolve_models.objective import Ints, Objective
from hexsolve_models.problem import Problem
from hexsolve_models.windows import Windows

_TOO_LARGE = "costs can reach {:.3g}: expected below 2^53; lower the objective's scale"
EXACT = 2**53  # totals below this are exact as doubles, which is how CP-SAT reports them


@dataclass(frozen=True, slots=True)
class Pieces:
    """By workflow w, for low[w] <= F[w] <= high[w].

    low, high : window of F[w].  live : pieces (slope, intercept), among them all that are the largest somewhere.
    convex_floor, convex_roof : f_w without its step at low and high.  floor, roof : with it.
    may_be_late : whether the step lies inside the window.  always_late : the step's weight if it lies before, else 0.
    """

    low: list[int]
    high: list[int]
    live: list[list[tuple[int, int]]]
    convex_floor: list[int]
    convex_roof: list[int]
    floor: list[int]
    roof: list[int]
    may_be_late: npt.NDArray[np.bool_]
    always_late: list[int]


def live_pieces(problem: Problem, objective: Objective, windows: Windows) -> Pieces:
    """The pieces of `objective` inside the windows, which may be of another objective of the same problem.

    Raises
    ------
    NumberRangeError
        If the cost could reach 2^53.
    """
    low, high = _window(problem, objective, windows)
    slope, intercept = objective.slope, objective.intercept
    if (slope.astype(np.float64) * high[:, None]).max(initial=0) >= 2 * EXACT:  # intercepts reach 2^50 only
        raise NumberRangeError(_TOO_LARGE.format((slope.astype(np.float64) * high[:, None]).max()))
    at_low, at_high = slope * low[:, None] + intercept, slope * high[:, None] + intercept
    convex_floor, convex_roof = at_low.max(axis=1), at_high.max(axis=1)
    # Of the largest at the low end the steepest piece, of the largest at the high end the flattest: in between, only
    # slopes in between can be the largest.
    first = np.where(at_low == convex_floor[:, None], slope, -1).argmax(axis=1)
    last = np.where(at_high == convex_roof[:, None], slope, 2 * EXACT).argmin(axis=1)
    rows = np.arange(len(slope))
    between = (slope > slope[rows, first, None]) & (slope < slope[rows, last, None])
    late = objective.late_weight
    floor, roof = convex_floor + late * (low > objective.due_tick), convex_roof + late * (high > objective.due_tick)
    _check_exact(objective, windows, np.maximum(np.abs(floor), np.abs(roof)))
    return Pieces(
        low=low.tolist(),
        high=high.tolist(),
        live=_lines(objective, first, last, between),
        convex_floor=convex_floor.tolist(),
        convex_roof=convex_roof.tolist(),
        floor=floor.tolist(),
        roof=roof.tolist(),
        may_be_late=(late > 0) & (low <= objective.due_tick) & (objective.due_tick < high),
        always_late=(late * (low > objective.due_tick)).tolist(),
    )


def _window(problem: Problem, objective: Objective, windows: Windows) -> tuple[Ints, Ints]:
    if np.array_equal(objective.tail_ticks, problem.objective.tail_ticks):
        return np.array(windows.earliest_workflow), np.array(windows.latest_workflow)
    low, high = np.zeros((2, problem.num_workflows), dtype=np.int64)
    np.maximum.at(low, problem.workflow, windows.alone.finish + objective.tail_ticks)
    np.maximum.at(high, problem.workflow, np.array(windows.latest) + objective.tail_ticks)
    return low, high


def _lines(
    objective: Objective, first: Ints, last: Ints, between: npt.NDArray[np.bool_]
) -> list[list[tuple[int, int]]]:
    live = []
    for w, (k, n) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        is_single = objective.slope[w, k] >= objective.slope[w, n]
        kept = [k] if is_single else [k, *np.flatnonzero(between[w]).tolist(), n]
        pieces = zip(objective.slope[w, kept].tolist(), objective.intercept[w, kept].tolist(), strict=True)
        live.append(list(dict.fromkeys(pieces)))
    return live


def _check_exact(objective: Objective, windows: Windows, largest: Ints) -> None:
    by_workflow = largest.astype(np.float64)
    own = float(objective.call_weight.astype(np.float64) @ np.array(windows.latest, dtype=np.float64))
    total = own + float(by_workflow.max(initial=0) if objective.aggregate == "max" else by_workflow.sum())
    if total >= EXACT:
        raise NumberRangeError(_TOO_LARGE.format(total))
