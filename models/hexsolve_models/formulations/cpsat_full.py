"""One epoch as a CP-SAT model: the full schedule. Knows `Problem`; knows nothing of clocks, clusters or budgets.

Symbols and sections as in models/README.md §4. Rows go straight to the proto (0.7 ms against 1.8 for 100 rows of 16
terms, ortools 9.15); intervals through the API, which is faster there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from ortools.sat.python import cp_model

from hexsolve_models.decision import Decision
from hexsolve_models.formulation import Formulation, NumberRangeError
from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem
from hexsolve_models.timetable import held_segments
from hexsolve_models.windows import UNBOUNDED, Options, Windows, options, time_windows

NATIVE = "cpsat"
EXACT = 2**53  # totals below this are exact as doubles, which is how CP-SAT reports them


@dataclass
class Variables:
    """x[c][p], y[c][d]: literals of what is allowed; s, t, f per call; F, z per workflow; native indices decide."""

    x: list[dict[int, cp_model.IntVar]] = field(default_factory=list)
    y: list[dict[int, cp_model.IntVar]] = field(default_factory=list)
    s: list[cp_model.IntVar | None] = field(default_factory=list)
    t: list[cp_model.IntVar] = field(default_factory=list)
    f: list[cp_model.IntVar] = field(default_factory=list)
    F: list[cp_model.IntVar] = field(default_factory=list)
    z: dict[int, cp_model.IntVar] = field(default_factory=dict)  # workflows with several live pieces; -1: the largest


def build(
    problem: Problem, incumbent: Decision | None = None, *, candidates: int | None = None
) -> Formulation[cp_model.CpModel]:
    """The table of contents.

    Parameters
    ----------
    incumbent
        A feasible decision; the model then contains an optimum and this decision, but not all dearer ones.
    candidates
        Keep only so many replicas per call and pool, those through which the call alone finishes first, besides the
        incumbent's. Builds and searches faster; the model's optimum and bound are then its own, not the problem's.

    Raises
    ------
    ValueError
        If a call cannot be placed at all (`problem.blocked_calls()`).
    NumberRangeError
        If costs could reach 2^53.
    """
    blocked = problem.blocked_calls()
    if blocked:
        raise ValueError(f"calls {list(blocked[:10])} have no replica that can hold them: no model to build")
    windows = time_windows(problem, incumbent)
    model, v = cp_model.CpModel(), Variables()
    create_variables(model, v, problem, windows, *options(problem, windows, incumbent, candidates))
    one_replica_each(model, v)
    prefill_one_at_a_time(model, v, problem)
    prefill_not_before(model, v, problem)
    decode_within_kv(model, v, problem)
    decode_after_arrival(model, v, problem)
    finish_of_call(model, v, problem)
    finish_of_workflow(model, v, problem)
    minimise_cost(model, v, problem, windows)
    return Formulation(
        "cpsat_full",
        problem,
        model,
        lambda values: _decode(v, values),
        lambda decision: _encode(v, problem, decision, len(model.proto.variables)),
        _has_twins(problem),
        is_exact=candidates is None,
    )


def create_variables(
    model: cp_model.CpModel, v: Variables, problem: Problem, windows: Windows, x_options: Options, y_options: Options
) -> None:
    """x[c,p], y[c,d] only where the call can still finish in time; s <= t < f inside the windows."""
    for c, latest in enumerate(windows.latest):
        sources, targets = np.flatnonzero(x_options[c]).tolist(), np.flatnonzero(y_options[c]).tolist()
        last_start = latest - int(problem.decode_ticks[c, targets].min())
        v.x.append(_literals(model, sources))
        v.y.append(_literals(model, targets))
        v.t.append(model.new_int_var(int(problem.release_tick[c]), last_start, ""))
        v.f.append(model.new_int_var(int(windows.alone.finish[c]), latest, ""))
        v.s.append(None)
        if sources:
            last_prefill = last_start - int(problem.prefill_ticks[c, sources].min())
            v.s[c] = model.new_int_var(int(problem.release_tick[c]), last_prefill, "")
    for earliest, latest in zip(windows.earliest_workflow, windows.latest_workflow, strict=True):
        v.F.append(model.new_int_var(earliest, latest, ""))


def one_replica_each(model: cp_model.CpModel, v: Variables) -> None:
    """sum_p x[c,p] = 1 for free c;  sum_d y[c,d] = 1 for all c."""
    for choice in (*v.x, *v.y):
        if len(choice) > 1:
            model.add_exactly_one(choice.values())


def prefill_one_at_a_time(model: cp_model.CpModel, v: Variables, problem: Problem) -> None:
    """No overlap of [s[c], s[c] + prefill_ticks[c,p]) over the c with x[c,p]."""
    queues: dict[int, list[cp_model.IntervalVar]] = {}
    for c, choice in enumerate(v.x):
        for p, literal in choice.items():
            ticks = int(problem.prefill_ticks[c, p])
            interval = model.new_optional_fixed_size_interval_var(v.s[c], ticks, literal, "")
            queues.setdefault(p, []).append(interval)
    for queue in queues.values():
        if len(queue) > 1:
            model.add_no_overlap(queue)


def prefill_not_before(model: cp_model.CpModel, v: Variables, problem: Problem) -> None:
    """s[c] >= sum_p max(release[c], free[p]) * x[c,p]."""
    for c, choice in enumerate(v.x):
        start = v.s[c]
        if start is not None:
            opens = np.maximum(problem.prefill_free_tick[list(choice)], problem.release_tick[c])
            _row(model, [start], [1], choice.values(), -opens, low=0)


def decode_within_kv(model: cp_model.CpModel, v: Variables, problem: Problem) -> None:
    """sum of kv_blocks[c] over c with y[c,d], t[c] <= tick < t[c] + decode_ticks[c,d], + held <= capacity[d].

    Held KV above the capacity counts as the capacity: nothing else fits, and the row stays satisfiable.
    """
    for d in range(problem.num_decode):
        calls = [c for c, choice in enumerate(v.y) if d in choice]
        if not calls:
            continue
        capacity = int(problem.kv_capacity[d])
        intervals = [
            model.new_optional_fixed_size_interval_var(v.t[c], int(problem.decode_ticks[c, d]), v.y[c][d], "")
            for c in calls
        ]
        demands = problem.kv_blocks[calls].tolist()
        ticks, use = held_segments(problem, d)
        for start, end, blocks in zip(ticks, ticks[1:], use, strict=False):
            if blocks > 0:
                intervals.append(model.new_fixed_size_interval_var(start, end - start, ""))
                demands.append(min(blocks, capacity))
        if sum(demands) > capacity:
            model.add_cumulative(intervals, demands, capacity)


def decode_after_arrival(model: cp_model.CpModel, v: Variables, problem: Problem) -> None:
    """t[c] >= s[c] + prefill_ticks[c,p] + transfer[c,p,d] if x[c,p] and y[c,d].

    With u_p = min_d transfer and w_d = min_p transfer, two rows say it for all pairs with transfer = max(u_p, w_d),
    which is every pair of a cluster whose pair bandwidth is the slower end's; only the others get an enforced row:
        t[c] >= s[c] + sum_p (prefill_ticks[c,p] + u_p) x[c,p]
        t[c] >= s[c] + sum_p prefill_ticks[c,p] x[c,p] + sum_d w_d y[c,d]
    """
    for c, (sources, targets) in enumerate(zip(v.x, v.y, strict=True)):
        start = v.s[c]
        if start is None:
            continue
        ticks = problem.prefill_ticks[c, list(sources)]
        lag = problem.transfer(c)[np.ix_(list(sources), list(targets))]
        by_source, by_target = lag.min(axis=1), lag.min(axis=0)
        _row(model, [v.t[c], start], [1, -1], sources.values(), -(ticks + by_source), low=0)
        if (by_target > by_source.min()).any():
            literals = [*sources.values(), *targets.values()]
            _row(model, [v.t[c], start], [1, -1], literals, -np.concatenate([ticks, by_target]), low=0)
        x, y = list(sources.values()), list(targets.values())
        for p, d in np.argwhere(lag > np.maximum(by_source[:, None], by_target[None, :])).tolist():
            row = _row(model, [v.t[c], start], [1, -1], [], [], low=int(ticks[p] + lag[p, d]))
            row.enforcement_literal.extend([x[p].index, y[d].index])


def finish_of_call(model: cp_model.CpModel, v: Variables, problem: Problem) -> None:
    """f[c] = t[c] + sum_d decode_ticks[c,d] y[c,d]."""
    for c, choice in enumerate(v.y):
        ticks = problem.decode_ticks[c, list(choice)]
        _row(model, [v.f[c], v.t[c]], [1, -1], choice.values(), -ticks, low=0, high=0)


def finish_of_workflow(model: cp_model.CpModel, v: Variables, problem: Problem) -> None:
    """F[w] >= f[c] + tail[c] for every c of w."""
    for c, w in enumerate(problem.workflow.tolist()):
        _row(model, [v.F[w], v.f[c]], [1, -1], [], [], low=int(problem.objective.tail_ticks[c]))


def minimise_cost(model: cp_model.CpModel, v: Variables, problem: Problem, windows: Windows) -> None:
    """min (sum | max)_w z[w] + sum_c call_weight[c] f[c],  z[w] >= slope[w,k] F[w] + intercept[w,k] for all k.

    Only pieces that are the largest somewhere in F[w]'s window; a single one goes into the objective itself.
    """
    terms: list[tuple[cp_model.IntVar, int]] = []
    constant, largest = 0, 0
    top = None
    if problem.objective.aggregate == "max" and v.F:
        floors = [problem.objective.workflow_cost(w, low) for w, low in enumerate(windows.earliest_workflow)]
        roofs = [problem.objective.workflow_cost(w, high) for w, high in enumerate(windows.latest_workflow)]
        _check_exact(max(map(abs, [*floors, *roofs])))
        top = v.z[-1] = model.new_int_var(max(floors), max(roofs), "")
        terms.append((top, 1))
    for w, (low, high) in enumerate(zip(windows.earliest_workflow, windows.latest_workflow, strict=True)):
        pieces = problem.objective.live_pieces(w, low, high)
        floor, roof = problem.objective.workflow_cost(w, low), problem.objective.workflow_cost(w, high)
        largest += max(abs(floor), abs(roof))
        if top is None and len(pieces) == 1:
            terms.append((v.F[w], pieces[0][0]))
            constant += pieces[0][1]
            continue
        above = top
        if above is None:
            _check_exact(largest)
            above = v.z[w] = model.new_int_var(floor, roof, "")
            terms.append((above, 1))
        for slope, intercept in pieces:
            _row(model, [above, v.F[w]], [1, -slope], [], [], low=intercept)
    weights = problem.objective.call_weight.tolist()
    largest += sum(weight * latest for weight, latest in zip(weights, windows.latest, strict=True))
    _check_exact(largest)
    terms += [(finish, weight) for finish, weight in zip(v.f, weights, strict=True) if weight]
    variables, coefficients = [var for var, _ in terms], [factor for _, factor in terms]
    model.minimize(cp_model.LinearExpr.weighted_sum(variables, coefficients) + constant)


def _check_exact(largest: int) -> None:
    if largest >= EXACT:
        raise NumberRangeError(f"costs can reach {largest:.3g}: expected below 2^53; lower the objective's scale")


def _literals(model: cp_model.CpModel, options: list[int]) -> dict[int, cp_model.IntVar]:
    if len(options) == 1:
        return {options[0]: model.new_constant(1)}
    return {option: model.new_bool_var("") for option in options}


def _row(
    model: cp_model.CpModel,
    variables: Sequence[cp_model.IntVar],
    factors: Sequence[int],
    literals: Iterable[cp_model.IntVar],
    literal_factors: npt.ArrayLike,
    *,
    low: int,
    high: int = UNBOUNDED,
) -> Any:
    """low <= factors . variables + literal_factors . literals <= high, straight on the proto."""
    constraint = model.proto.constraints.add()
    row = constraint.linear
    row.vars.extend([var.index for var in variables] + [literal.index for literal in literals])
    row.coeffs.extend([*factors, *np.asarray(literal_factors, dtype=np.int64).tolist()])
    row.domain.extend([low, high])
    return constraint


def _decode(v: Variables, values: Sequence[int]) -> Decision:
    def chosen(choice: dict[int, cp_model.IntVar]) -> int:
        return next((option for option, literal in choice.items() if values[literal.index]), -1)

    starts = [-1 if start is None else values[start.index] for start in v.s]
    rows = [chosen(c) for c in v.x], [chosen(c) for c in v.y], starts, [values[t.index] for t in v.t]
    return Decision(*(np.array(row, dtype=np.int64) for row in rows))


def _encode(v: Variables, problem: Problem, decision: Decision, num_variables: int) -> list[int]:
    values = [1] * num_variables  # what is not set below are the constants of `_literals`
    for choices, replicas in ((v.x, decision.prefill), (v.y, decision.decode)):
        for c, (choice, replica) in enumerate(zip(choices, replicas.tolist(), strict=True)):
            if choice and replica not in choice:
                raise ValueError(f"call {c} on replica {replica}: the model keeps only {sorted(choice)}")
            for option, literal in choice.items():
                values[literal.index] = int(option == replica)
    finish = decision.decode_finish(problem).tolist()
    last = [0] * problem.num_workflows
    for c, w in enumerate(problem.workflow.tolist()):
        start = v.s[c]
        if start is not None:
            values[start.index] = int(decision.prefill_start[c])
        values[v.t[c].index], values[v.f[c].index] = int(decision.decode_start[c]), finish[c]
        last[w] = max(last[w], finish[c] + int(problem.objective.tail_ticks[c]))
    costs = [problem.objective.workflow_cost(w, tick) for w, tick in enumerate(last)]
    for w, tick in enumerate(last):
        values[v.F[w].index] = tick
    for w, var in v.z.items():
        values[var.index] = max(costs) if w < 0 else costs[w]
    return values


def _has_twins(problem: Problem) -> bool:
    """Whether two replicas of a pool agree in every number, held KV aside."""
    prefill = np.vstack([problem.prefill_ticks, problem.prefill_free_tick[None], _sides(problem, 0)])
    decode = np.vstack([problem.decode_ticks, problem.kv_capacity[None], _sides(problem, 1)])
    return any(np.unique(pool, axis=1).shape[1] < pool.shape[1] for pool in (prefill, decode))


def _sides(problem: Problem, axis: int) -> Ints:
    both = problem.transfer_base_ticks, problem.transfer_rate_ticks
    return np.vstack([table.T if axis == 0 else table for table in both])
