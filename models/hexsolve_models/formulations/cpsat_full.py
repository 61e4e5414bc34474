"""One epoch as a CP-SAT model: the full schedule. Knows `Problem`; knows nothing of clocks, clusters or budgets.

Symbols and sections as in models/README.md §4. Everything that can be decided before the search is: replicas without a
chance to finish in time, KV that cannot run out, cost pieces that cannot be the largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from ortools.sat.python import cp_model

from hexsolve_models.decision import Decision
from hexsolve_models.formulation import Formulation
from hexsolve_models.formulations._cpsat_text import ALWAYS, ModelText
from hexsolve_models.formulations._pieces import Pieces, live_pieces
from hexsolve_models.formulations._shortage import Shortage, earliest_starts, held_in_the_way, shortages
from hexsolve_models.objective import Ints, Objective
from hexsolve_models.problem import RATE_BLOCKS, Problem
from hexsolve_models.windows import Options, Windows, options, time_windows

NATIVE = "cpsat"
UNREACHED = 2**40  # a tick after all others


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a call may go in one pool: literals[i] says that it goes to options[i]; none if there is but one option."""

    options: list[int]
    literals: list[int]

    def presence(self, i: int) -> int:
        """The literal that the call goes to options[i], or `ALWAYS`."""
        return self.literals[i] if self.literals else ALWAYS

    def minus(self, factors: list[int]) -> tuple[list[int], list[int], int]:
        """-sum_i factors[i] * [options[i] is chosen] as literals and factors, and a constant for the other side."""
        if self.literals:
            return self.literals, [-factor for factor in factors], 0
        return [], [], factors[0]


@dataclass(slots=True)
class CostVariables:
    """F, late and z of one objective: by workflow; z[-1]: the largest cost. Native indices."""

    objective: Objective
    F: list[int]
    late: dict[int, int] = field(default_factory=dict)
    z: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Variables:
    """x, y, s, t, f by call (s: -1 if locked), e by decode replica; native indices."""

    x: list[Choice] = field(default_factory=list)
    y: list[Choice] = field(default_factory=list)
    s: list[int] = field(default_factory=list)
    t: list[int] = field(default_factory=list)
    f: list[int] = field(default_factory=list)
    e: dict[int, int] = field(default_factory=dict)
    costs: list[CostVariables] = field(default_factory=list)


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
        If costs could reach 2^53, or ticks of a pair lag or of crowding 2^31.
    """
    blocked = problem.blocked_calls()
    if blocked:
        raise ValueError(f"calls {list(blocked[:10])} have no replica that can hold them: no model to build")
    windows = time_windows(problem, incumbent)
    model, v = ModelText(), Variables()
    x_options, y_options = options(problem, windows, incumbent, candidates)
    create_variables(model, v, problem, windows, x_options, y_options)
    one_replica_each(model, v)
    prefill_one_at_a_time(model, v, problem)
    prefill_not_before(model, v, problem)
    children_after_parents(model, v, problem)
    crowding_counts(model, v, problem)
    decode_not_before(model, v, problem, windows, y_options)
    decode_within_kv(model, v, problem, shortages(problem, windows, y_options))
    decode_after_arrival(model, v, problem, x_options, y_options)
    finish_of_call(model, v, problem)
    minimise_cost(model, v, problem, windows)
    within_caps(model, v, problem, windows)
    return Formulation(
        "cpsat_full",
        problem,
        model.model(),
        lambda values: _decode(v, values),
        lambda decision: _encode(v, problem, decision, model.num_variables),
        _has_twins(problem),
        is_exact=candidates is None,
    )


def create_variables(
    model: ModelText, v: Variables, problem: Problem, windows: Windows, x_options: Options, y_options: Options
) -> None:
    """x[c,p], y[c,d] only where the call can still finish in time; s <= t < f inside the windows."""
    shortest_decode = np.where(y_options, problem.decode_ticks, UNREACHED).min(axis=1).tolist()
    shortest_prefill = np.where(x_options, problem.prefill_ticks, UNREACHED).min(axis=1).tolist()
    release, earliest = problem.release_tick.tolist(), windows.alone.finish.tolist()
    x_open, y_open = x_options.tolist(), y_options.tolist()
    for c, latest in enumerate(windows.latest):
        last_start = latest - shortest_decode[c]
        v.x.append(_choice(model, x_open[c]))
        v.y.append(_choice(model, y_open[c]))
        v.t.append(model.integer(release[c], last_start))
        v.f.append(model.integer(earliest[c], latest))
        v.s.append(model.integer(release[c], last_start - shortest_prefill[c]) if v.x[c].options else -1)


def one_replica_each(model: ModelText, v: Variables) -> None:
    """sum_p x[c,p] = 1 for free c;  sum_d y[c,d] = 1 for all c."""
    for choice in (*v.x, *v.y):
        if choice.literals:
            model.exactly_one(choice.literals)


def prefill_one_at_a_time(model: ModelText, v: Variables, problem: Problem) -> None:
    """No overlap of [s[c], s[c] + prefill_ticks[c,p]) over the c with x[c,p]."""
    ticks = problem.prefill_ticks.tolist()
    queues: list[list[tuple[int, int, int]]] = [[] for _ in range(problem.num_prefill)]
    for c, choice in enumerate(v.x):
        for i, p in enumerate(choice.options):
            queues[p].append((v.s[c], ticks[c][p], choice.presence(i)))
    for queue in queues:
        if len(queue) > 1:
            model.no_overlap([model.interval(*interval) for interval in queue])


def prefill_not_before(model: ModelText, v: Variables, problem: Problem) -> None:
    """s[c] >= sum_p max(release[c], free[p]) * x[c,p]."""
    opens = np.maximum(problem.prefill_free_tick, problem.release_tick[:, None]).tolist()
    for start, choice, first in zip(v.s, v.x, opens, strict=True):
        if choice.options:
            literals, factors, constant = choice.minus([first[p] for p in choice.options])
            model.row([start, *literals], [1, *factors], constant)


def children_after_parents(model: ModelText, v: Variables, problem: Problem) -> None:
    """s[child] >= f[before] + lag for every edge."""
    edges = problem.edge_before.tolist(), problem.edge_after.tolist(), problem.edge_lag.tolist()
    for before, child, lag in zip(*edges, strict=True):
        model.row([v.s[child], v.f[before]], [1, -1], lag)


def crowding_counts(model: ModelText, v: Variables, problem: Problem) -> None:
    """e[d] >= sum_c y[c,d] - uncrowded[d], e[d] >= 0; only where more calls than those may come and it matters."""
    for d, uncrowded in enumerate(problem.uncrowded_calls.tolist()):
        calls = [c for c, choice in enumerate(v.y) if d in choice.options]
        if len(calls) > uncrowded and problem.crowding_ticks[calls, d].any():
            literals = [v.y[c].literals[v.y[c].options.index(d)] for c in calls if v.y[c].literals]
            bound = len(calls) - len(literals)
            v.e[d] = model.integer(max(0, bound - uncrowded), len(calls) - uncrowded)
            model.row([v.e[d], *literals], [1] + [-1] * len(literals), bound - uncrowded)


def decode_not_before(model: ModelText, v: Variables, problem: Problem, windows: Windows, y_options: Options) -> None:
    """t[c] >= sum_d earliest_starts[c,d] * y[c,d] where held KV can delay c: `shortages` takes it for granted."""
    first = earliest_starts(problem, windows).tolist()
    for c in np.flatnonzero((y_options & held_in_the_way(problem)).any(axis=1)).tolist():
        literals, factors, constant = v.y[c].minus([first[c][d] for d in v.y[c].options])
        model.row([v.t[c], *literals], [1, *factors], constant)


def decode_within_kv(model: ModelText, v: Variables, problem: Problem, shortages: list[Shortage]) -> None:
    """sum of kv_blocks[c] over c with y[c,d], t[c] <= tick < f[c], + held <= capacity[d], at the ticks with a shortage.

    Held KV above the capacity counts as the capacity: nothing else fits, and the row stays satisfiable.
    """
    for shortage in shortages:
        d, capacity = shortage.decode, int(problem.kv_capacity[shortage.decode])
        intervals = [_decode_interval(model, v, problem, c, d) for c in shortage.calls]
        intervals += [model.fixed_interval(start, end) for start, end, _ in shortage.held]
        demands = problem.kv_blocks[shortage.calls].tolist() + [min(use, capacity) for *_, use in shortage.held]
        model.cumulative(intervals, demands, capacity)


def decode_after_arrival(
    model: ModelText, v: Variables, problem: Problem, x_options: Options, y_options: Options
) -> None:
    """t[c] >= s[c] + prefill_ticks[c,p] + transfer[c,p,d] if x[c,p] and y[c,d].

    With u_p = min_d transfer and w_d = min_p transfer, two rows say it for all pairs with transfer = max(u_p, w_d),
    which is every pair of a cluster whose pair bandwidth is the slower end's; only the others get an enforced row:
        t[c] >= s[c] + sum_p (prefill_ticks[c,p] + u_p) x[c,p]
        t[c] >= s[c] + sum_p prefill_ticks[c,p] x[c,p] + sum_d w_d y[c,d]
    """
    lags = _transfers(problem, x_options, y_options)
    by_source, by_target = lags.min(axis=2), lags.min(axis=1)
    ticks = problem.prefill_ticks.tolist()
    both = (problem.prefill_ticks + by_source).tolist()
    is_told = (np.where(y_options, by_target, 0) <= by_source.min(axis=1)[:, None]).all(axis=1).tolist()
    for c, (x, y, moving) in enumerate(zip(v.x, v.y, by_target.tolist(), strict=True)):
        if not x.options:
            continue
        literals, factors, constant = x.minus([both[c][p] for p in x.options])
        model.row([v.t[c], v.s[c], *literals], [1, -1, *factors], constant)
        if not is_told[c]:
            literals, factors, constant = x.minus([ticks[c][p] for p in x.options])
            targets, lag_factors, lag_constant = y.minus([moving[d] for d in y.options])
            variables = [v.t[c], v.s[c], *literals, *targets]
            model.row(variables, [1, -1, *factors, *lag_factors], constant + lag_constant)
    longer = (lags < UNREACHED) & (lags > np.maximum(by_source[:, :, None], by_target[:, None, :]))
    for c, p, d in np.argwhere(longer).tolist():
        presences = v.x[c].presence(v.x[c].options.index(p)), v.y[c].presence(v.y[c].options.index(d))
        both_here = [literal for literal in presences if literal != ALWAYS]
        model.row_if(both_here, [v.t[c], v.s[c]], [1, -1], ticks[c][p] + int(lags[c, p, d]))


def finish_of_call(model: ModelText, v: Variables, problem: Problem) -> None:
    """f[c] >= t[c] + sum_d decode_ticks[c,d] y[c,d];  f[c] = t[c] + decode_ticks[c,d] + crowding[c,d] e[d] if y[c,d].

    A finish later than need be costs more, so without crowding there is no need for equality.
    """
    ticks, crowding = problem.decode_ticks.tolist(), problem.crowding_ticks.tolist()
    for c, y in enumerate(v.y):
        literals, factors, constant = y.minus([ticks[c][d] for d in y.options])
        model.row([v.f[c], v.t[c], *literals], [1, -1, *factors], constant)
        for i, d in enumerate(y.options):
            if crowding[c][d] and d in v.e:
                variables, factors = [v.f[c], v.t[c], v.e[d]], [1, -1, -crowding[c][d]]
                here = [y.literals[i]] if y.literals else []
                model.row_if(here, variables, factors, ticks[c][d], ticks[c][d])


def minimise_cost(model: ModelText, v: Variables, problem: Problem, windows: Windows) -> None:
    """min (sum | max)_w cost[w] + sum_c call_weight[c] f[c], see `cost_terms`."""
    model.minimise(*cost_terms(model, v, problem, windows, problem.objective))


def within_caps(model: ModelText, v: Variables, problem: Problem, windows: Windows) -> None:
    """(sum | max)_w cost[w] + sum_c call_weight[c] f[c] <= limit for every cap, see `cost_terms`."""
    for objective, limit in problem.caps:
        variables, factors, constant = cost_terms(model, v, problem, windows, objective)
        model.row(variables, factors, high=limit - constant)


def cost_terms(
    model: ModelText, v: Variables, problem: Problem, windows: Windows, objective: Objective
) -> tuple[list[int], list[int], int]:
    """What an objective costs, as variables, factors and constant.

    F[w] >= f[c] + tail[c] for every c of w;  F[w] <= due[w] unless late[w];
    z[w] >= slope[w,k] F[w] + intercept[w,k] for the pieces that are the largest somewhere in F[w]'s window;
    cost[w] = z[w] + late_weight[w] late[w]. A single piece needs no z. For the largest cost, z[-1] >= cost[w].
    """
    pieces = live_pieces(problem, objective, windows)
    own = _finishes(model, v, problem, objective, pieces)
    v.costs.append(own)
    terms: list[tuple[int, int]] = []
    constant = 0
    if objective.aggregate == "max" and own.F:
        own.z[-1] = model.integer(max(pieces.floor), max(pieces.roof))
        terms.append((own.z[-1], 1))
    for w, finish in enumerate(own.F):
        late, weight = ([own.late[w]], [int(objective.late_weight[w])]) if w in own.late else ([], [])
        if -1 in own.z:
            for slope, intercept in pieces.live[w]:
                factors = [1, -slope, *(-step for step in weight)]
                model.row([own.z[-1], finish, *late], factors, intercept + pieces.always_late[w])
            continue
        constant += pieces.always_late[w]
        terms += zip(late, weight, strict=True)
        if len(pieces.live[w]) == 1:
            slope, intercept = pieces.live[w][0]
            terms += [(finish, slope)] if slope else []
            constant += intercept
            continue
        own.z[w] = model.integer(pieces.convex_floor[w], pieces.convex_roof[w])
        terms.append((own.z[w], 1))
        for slope, intercept in pieces.live[w]:
            model.row([own.z[w], finish], [1, -slope], intercept)
    weights = objective.call_weight.tolist()
    terms += [(finish, weight) for finish, weight in zip(v.f, weights, strict=True) if weight]
    return [variable for variable, _ in terms], [factor for _, factor in terms], constant


def _finishes(model: ModelText, v: Variables, problem: Problem, objective: Objective, pieces: Pieces) -> CostVariables:
    """F and late of an objective; F is shared by objectives of the same tails."""
    known = next((old for old in v.costs if np.array_equal(old.objective.tail_ticks, objective.tail_ticks)), None)
    F = known.F if known else [model.integer(*window) for window in zip(pieces.low, pieces.high, strict=True)]
    own = CostVariables(objective, F)
    if not known:
        tails = objective.tail_ticks.tolist()
        for c, w in enumerate(problem.workflow.tolist()):
            model.row([F[w], v.f[c]], [1, -1], tails[c])
    for w in np.flatnonzero(pieces.may_be_late).tolist():
        own.late[w] = model.literals(1)[0]
        due = int(objective.due_tick[w])
        model.row([F[w], own.late[w]], [1, due - pieces.high[w]], high=due)
    return own


def _choice(model: ModelText, allowed: list[bool]) -> Choice:
    options = [i for i, is_open in enumerate(allowed) if is_open]
    return Choice(options, model.literals(len(options)) if len(options) > 1 else [])


def _transfers(problem: Problem, x_options: Options, y_options: Options) -> Ints:
    """[N, P, D] lags of the pairs still open, else `UNREACHED`."""
    is_open = x_options[:, :, None] & y_options[:, None, :]
    moved = problem.transfer_rate_ticks * problem.transfer_blocks[:, None, None]
    lags: Ints = np.where(is_open, problem.transfer_base_ticks - (-moved // RATE_BLOCKS), UNREACHED)
    return lags


def _decode_interval(model: ModelText, v: Variables, problem: Problem, c: int, d: int) -> int:
    presence, ticks = v.y[c].presence(v.y[c].options.index(d)), int(problem.decode_ticks[c, d])
    crowding = int(problem.crowding_ticks[c, d])
    if crowding and d in v.e:
        return model.growing_interval(v.t[c], ticks, v.e[d], crowding, v.f[c], presence)
    return model.interval(v.t[c], ticks, presence)


def _decode(v: Variables, values: Sequence[int]) -> Decision:
    def chosen(choice: Choice) -> int:
        if not choice.literals:
            return choice.options[0] if choice.options else -1
        taken = (option for option, literal in zip(choice.options, choice.literals, strict=True) if values[literal])
        return next(taken, -1)  # -1: values that are no solution, for the referee to turn down

    starts = [-1 if start < 0 else values[start] for start in v.s]
    rows = [chosen(x) for x in v.x], [chosen(y) for y in v.y], starts, [values[t] for t in v.t]
    return Decision(*(np.array(row, dtype=np.int64) for row in rows))


def _encode(v: Variables, problem: Problem, decision: Decision, num_variables: int) -> list[int]:
    values = [0] * num_variables
    for choices, replicas in ((v.x, decision.prefill), (v.y, decision.decode)):
        for c, (choice, replica) in enumerate(zip(choices, replicas.tolist(), strict=True)):
            if choice.options and replica not in choice.options:
                raise ValueError(f"call {c} on replica {replica}: the model keeps only {choice.options}")
            for option, literal in zip(choice.options, choice.literals, strict=bool(choice.literals)):
                values[literal] = int(option == replica)
    finish = decision.decode_finish(problem)
    for variables, ticks in ((v.s, decision.prefill_start), (v.t, decision.decode_start), (v.f, finish)):
        for variable, tick in zip(variables, ticks.tolist(), strict=True):
            if variable >= 0:
                values[variable] = tick
    together = np.bincount(decision.decode, minlength=problem.num_decode) - problem.uncrowded_calls
    for d, variable in v.e.items():
        values[variable] = max(0, int(together[d]))
    for own in v.costs:
        _encode_costs(own, problem, finish, values)
    return values


def _encode_costs(own: CostVariables, problem: Problem, finish: Ints, values: list[int]) -> None:
    objective = own.objective
    last = np.zeros(problem.num_workflows, dtype=np.int64)
    np.maximum.at(last, problem.workflow, finish + objective.tail_ticks)
    costs = [objective.workflow_cost(w, tick) for w, tick in enumerate(last.tolist())]
    for variable, tick in zip(own.F, last.tolist(), strict=True):
        values[variable] = tick
    is_late = last > objective.due_tick
    for w, variable in own.late.items():
        values[variable] = int(is_late[w])
    for w, variable in own.z.items():
        values[variable] = max(costs) if w < 0 else costs[w] - int(is_late[w] and objective.late_weight[w])


def _has_twins(problem: Problem) -> bool:
    """Whether two replicas of a pool agree in every number, held KV aside."""
    base, rate = problem.transfer_base_ticks, problem.transfer_rate_ticks
    prefill = np.vstack([problem.prefill_ticks, problem.prefill_free_tick[None], base.T, rate.T])
    decode = np.vstack(
        [
            problem.decode_ticks,
            problem.crowding_ticks,
            problem.uncrowded_calls[None],
            problem.kv_capacity[None],
            base,
            rate,
        ]
    )
    return any(len({replica.tobytes() for replica in pool.T}) < pool.shape[1] for pool in (prefill, decode))
