"""The most urgent calls as a CP-SAT model, the others list-scheduled behind them. Knows `restriction.head` and the full
schedule of `cpsat_full`; knows nothing of clocks, clusters or budgets.

The model knows of the others only that their workflows do not end before them. What it proves, it proves of itself.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from ortools.sat.python import cp_model

from hexsolve_models.decision import Decision
from hexsolve_models.formulation import Formulation
from hexsolve_models.formulations import cpsat_full
from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem
from hexsolve_models.referee import cost, violations
from hexsolve_models.restriction import head, part_of
from hexsolve_models.timetable import along_edges, earliest_finish, timetable

NATIVE = "cpsat"


def build(
    problem: Problem,
    incumbent: Decision | None = None,
    *,
    size: int = 8,
    calls: npt.ArrayLike | None = None,
    candidates: int | None = None,
) -> Formulation[cp_model.CpModel]:
    """The first calls of the incumbent's order as a problem of their own; all of them: the full schedule.

    Parameters
    ----------
    incumbent
        A feasible decision; None: list scheduling. The calls outside keep its replicas and its order.
    size
        Calls inside, >= 1: the most urgent of the incumbent, never one before a call that it waits for.
    calls
        The calls inside instead, in any order.
    candidates
        As in `cpsat_full.build`.

    Raises
    ------
    ValueError, NumberRangeError
        As `cpsat_full.build` and `restriction.head`; or if `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"size = {size}: expected >= 1")
    if problem.blocked_calls():
        return cpsat_full.build(problem)  # raises, and says which
    if incumbent is None:
        incumbent = earliest_finish(problem, problem.topological, compiled=True)
    order = along_edges(problem, incumbent.priority_order(problem))
    inside = np.unique(order[:size] if calls is None else np.asarray(calls, dtype=np.int64))
    if inside.size == problem.num_calls:
        return cpsat_full.build(problem, incumbent, candidates=candidates)
    part = head(problem, incumbent, inside)
    model = cpsat_full.build(part, _packed(part, part_of(incumbent, inside)), candidates=candidates)
    rest = order[~np.isin(order, inside)]

    def decode(values: Sequence[int]) -> Decision:
        return _whole(problem, incumbent, inside, rest, part, model.decode(values))

    def encode(decision: Decision) -> list[int]:
        return model.encode(_packed(part, part_of(decision, inside)))

    return Formulation("cpsat_window", problem, model.model, decode, encode, model.has_twins, is_exact=False)


def _packed(part: Problem, decision: Decision) -> Decision:
    """The same replicas and order without the gaps that calls outside have left."""
    packed = timetable(part, decision.priority_order(part), decision.prefill, decision.decode, compiled=True)
    # Where decodes overtake one another the list schedule may be worse, even beyond a cap.
    is_worse = cost(part, packed) > cost(part, decision) or violations(part, packed)
    return decision if is_worse else packed


def _whole(
    problem: Problem, incumbent: Decision, inside: Ints, rest: Ints, part: Problem, decision: Decision
) -> Decision:
    """The calls inside in their new order, then the others."""
    prefill, decode = incumbent.prefill.copy(), incumbent.decode.copy()
    prefill[inside], decode[inside] = decision.prefill, decision.decode
    order = np.concatenate([inside[decision.priority_order(part)], rest])
    return timetable(problem, order, prefill, decode, compiled=True)
