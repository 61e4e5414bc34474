"""One epoch as a time-indexed MILP: in which slot each call starts where. Knows `Problem` and PuLP; knows no solver.

Symbols, inequalities and proofs in models/README.md §8. With slots of one tick the model is the problem; with longer
ones it is a relaxation: every decision is one of its points, at no higher cost.
"""

from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from hexsolve_models.decision import Decision
from hexsolve_models.formulation import Formulation
from hexsolve_models.formulations._slot_costs import cost_of
from hexsolve_models.grouped import least, most, ragged, rows_of
from hexsolve_models.matrix import Draft, Floats, MatrixProblem
from hexsolve_models.objective import Ints
from hexsolve_models.problem import Problem
from hexsolve_models.referee import cost
from hexsolve_models.slots import Choices, Detail, Homes, Slots, Starts, fitting
from hexsolve_models.timetable import CHOOSE, held_segments, timetable

NATIVE = "pulp"
MAX_COLUMNS = 4_000


@dataclass(frozen=True, eq=False)
class SlotFormulation(Formulation[MatrixProblem]):
    """A formulation whose bound holds for the problem whether it is exact or not.

    is_exact
        The model's optimum is the problem's. Where false it is at most the problem's: some optimum, and every decision
        that `encode` accepts, is a point of the model at no higher cost. What `decode` gives then costs what it costs,
        not what the model says.
    slots
        Its slots.
    """

    slots: Slots


@dataclass(frozen=True, eq=False)
class Variables:
    """x, y: the starts of each stage, q: homes of calls without decode starts, all by call, and their columns.

    m: columns of the levels of each crowded replica.
    """

    x: Starts
    x_column: Ints
    y: Starts
    y_column: Ints
    q: Homes
    q_column: Ints
    m: dict[int, Ints]


def build(
    problem: Problem,
    incumbent: Decision | None = None,
    *,
    slot_ticks: int | None = None,
    max_columns: int = MAX_COLUMNS,
    relaxed: bool = False,
    num_levels: int | None = None,
    prefill_only: bool | None = None,
    growth: float | None = None,
) -> SlotFormulation:
    """The table of contents.

    Parameters
    ----------
    incumbent
        A feasible decision; the model then contains an optimum and this decision, but not all dearer ones.
    slot_ticks, growth
        Length of the first slot, >= 1, and how many times as long each next one is, >= 1. Growth is 1 if only the
        length is given. None, None: slots of one tick, and else growing ones, with at most `max_columns` starts.
    relaxed
        No column need be whole: a linear program, whose optimum is a bound.
    num_levels
        Levels of crowding per decode replica, >= 1. None: all with slots of one tick; else one, or with `prefill_only`
        up to 8, as `max_columns` allows.
    prefill_only
        Leave out the decode starts of free calls: each decodes when its KV arrives. None: if slots are longer than a
        tick and no decode needs to wait for KV, or none does in the incumbent.

    Raises
    ------
    ValueError
        If a call cannot be placed at all (`problem.blocked_calls()`), or an option is out of range.
    NumberRangeError
        If costs could reach 2^43.
    """
    detail = Detail(slot_ticks, growth, max_columns, num_levels, prefill_only)
    found, slots = fitting(problem, incumbent, detail)
    draft = Draft()
    v = create_variables(draft, found, slots)
    one_start_each(draft, v)
    prefill_one_at_a_time(draft, v, problem, slots)
    if not slots.is_exact:
        prefill_work_fits(draft, v, problem, slots)
    decode_within_kv(draft, v, problem, slots)
    decode_after_arrival(draft, v, problem, found, slots)
    prefill_after_edges(draft, v, problem, slots)
    one_home_each(draft, v)
    crowding_levels(draft, v, problem, found)
    within_caps(draft, v, problem, slots)
    minimise_cost(draft, v, problem, slots)
    is_whole = found.crowding.is_exact and not found.prefill_only
    is_exact = slots.is_exact and not relaxed and is_whole
    return SlotFormulation(
        "milp_slots",
        problem,
        MatrixProblem("epoch", draft.matrix(relaxed=relaxed)),
        lambda values: _decode(v, problem, np.asarray(values, dtype=np.float64), is_exact),
        lambda decision: _encode(draft, v, problem, found, decision),
        has_twins=False,
        is_exact=is_exact,
        slots=slots,
    )


def slots_for(problem: Problem, incumbent: Decision | None = None, max_columns: int = MAX_COLUMNS) -> tuple[int, float]:
    """(slot_ticks, growth) that `build` takes with at most `max_columns` starts and homes, if there is a way."""
    _, slots = fitting(problem, incumbent, Detail(max_columns=max_columns))
    return slots.ticks, slots.growth


def create_variables(draft: Draft, found: Choices, slots: Slots) -> Variables:
    """x[c,p,k], y[c,d,j,k], q[c,d,j], m[d,j] in {0, 1}.

    The stage starts in slot k, d having its j-th level of crowding; the call decodes on d at that level.
    """
    x, y = found.cut(slots)
    q = found.homes
    x_column, y_column, q_column = (draft.columns(n, integer=True) for n in (x.size, y.size, q.call.size))
    levels = {d: lowest.size for d, lowest in enumerate(found.crowding.lowest) if lowest.size > 1}
    m = {d: draft.columns(n, integer=True) for d, n in levels.items() if q.call.size or not found.prefill_only}
    return Variables(x, x_column, y, y_column, q, q_column, m)


def one_start_each(draft: Draft, v: Variables) -> None:
    """sum_pk x[c,p,k] = 1 for free c;  sum_djk y[c,d,j,k] = 1."""
    for starts, column in ((v.x, v.x_column), (v.y, v.y_column)):
        calls, row = np.unique(starts.call, return_inverse=True)
        draft.rows(calls.size, row, column, lower=1, upper=1)


def prefill_one_at_a_time(draft: Draft, v: Variables, problem: Problem, slots: Slots) -> None:
    """sum of x[c,p,k] with high <= T < low + ticks, which surely run at T, <= 1: for the last tick T of each slot."""
    x = v.x
    last_slot = most(x.replica, x.slot, problem.num_prefill)[x.replica]
    start, slot = ragged(x.slot, np.minimum(slots.of(x.low + x.ticks - x.anchor) - 1, last_slot))
    _, row = np.unique(slot * problem.num_prefill + x.replica[start], return_inverse=True)
    draft.rows(int(row.max(initial=-1)) + 1, row, v.x_column[start], upper=1)


def prefill_work_fits(draft: Draft, v: Variables, problem: Problem, slots: Slots) -> None:
    """sum of min(ticks, T - high + 1) x[c,p,k] with high <= T, the work surely done by T, <= T - first start on p + 1.

    For the last tick T of each slot of p. It packs slots that hold several short prefills, and does not round durations
    down. With slots of one tick it is the sum of the rows of `prefill_one_at_a_time` up to T.
    """
    x = v.x
    first_slot, last_slot = (edge(x.replica, x.slot, problem.num_prefill)[x.replica] for edge in (least, most))
    finished = slots.of(x.high + x.ticks - 1 - x.anchor)
    start, slot = ragged(x.slot, np.minimum(finished, last_slot))
    ticks, until = x.ticks[start], slots.last(slot) + x.anchor[start] - x.high[start] + 1
    before = until - (slots.last(slot) - slots.last(slot - 1))
    more = np.minimum(ticks, until) - np.where(slot > x.slot[start], np.minimum(ticks, before), 0)
    used = np.unique(x.replica)
    opens = least(x.replica, x.low, problem.num_prefill)
    low, high = (edge(x.replica, x.slot, problem.num_prefill) for edge in (least, most))
    block, its_slot = ragged(low[used], high[used])
    entry = np.searchsorted(block, np.searchsorted(used, x.replica[start])) + slot - first_slot[start]
    room = problem.prefill_free_tick[used[block]] + slots.last(its_slot) + 1 - opens[used[block]]
    draft.running_sums(block, entry, v.x_column[start], more, room)


def decode_within_kv(draft: Draft, v: Variables, problem: Problem, slots: Slots) -> None:
    """sum of kv_blocks[c] y[c,d,j,k] with high <= T < low + ticks <= capacity[d] - held at T, for each slot_ticks-th T.

    Only where all calls that can be there together do not fit. Held KV above the capacity counts as the capacity.
    """
    for d in range(problem.num_decode):
        here = np.flatnonzero(v.y.replica == d)
        tick, use = (np.array(side) for side in held_segments(problem, d))
        y = v.y.rows(here)
        if not here.size or problem.kv_blocks[np.unique(y.call)].sum() + use.max() <= problem.kv_capacity[d]:
            continue
        anchor = y.low.min()
        start, point = ragged(slots.of(y.high - anchor), slots.of(y.low + y.ticks - anchor) - 1)
        num_points = int(point.max(initial=-1)) + 1
        last = anchor + slots.last(np.arange(num_points))
        room = np.maximum(0, problem.kv_capacity[d] - use[np.searchsorted(tick, last, side="right") - 1])
        # Each call counts once towards what can be there together.
        _, once = np.unique(point * problem.num_calls + y.call[start], return_index=True)
        together = np.bincount(point[once], weights=problem.kv_blocks[y.call[start[once]]], minlength=num_points)
        tight = together > room
        kept = tight[point]
        row, start = (np.cumsum(tight) - 1)[point[kept]], start[kept]
        blocks = problem.kv_blocks[y.call[start]]
        draft.rows(int(tight.sum()), row, v.y_column[here[start]], blocks, upper=room[tight])


def decode_after_arrival(draft: Draft, v: Variables, problem: Problem, found: Choices, slots: Slots) -> None:
    """sum of y[c,d,j,k] with high <= T and d in G  <=  sum of x[c,p,k] with low + ticks + transfer to G <= T.

    For every free c and the last tick T of each of its decode slots. G are all decode replicas, and each set of them
    with the same transfers in whole slots; the transfer to G is the shortest to any of it.
    """
    calls, lag, members = _groups(v, problem, found, slots.ticks)
    anchor = most(v.y.call, v.y.anchor, problem.num_calls)[calls]
    group, start = rows_of(v.x.call, calls)
    arrival = (v.x.low + v.x.ticks)[start] + lag[group, v.x.replica[start]]
    supply = group, slots.of(arrival - anchor[group]), v.x_column[start]
    group, start = rows_of(v.y.call, calls)
    inside = members[group, v.y.replica[start]]
    group, start = group[inside], start[inside]
    _never_ahead(draft, calls.size, (group, v.y.slot[start], v.y_column[start]), supply)


def prefill_after_edges(draft: Draft, v: Variables, problem: Problem, slots: Slots) -> None:
    """sum of x[after,p,k] with high <= T  <=  sum of the starts of `before` with finish + lag <= T, edge by edge."""
    column, call, finish = _finishing(v)
    anchor = least(v.x.call, v.x.low, problem.num_calls)[problem.edge_after]
    edge, start = rows_of(v.x.call, problem.edge_after)
    demand = edge, slots.of(v.x.high[start] - anchor[edge]), v.x_column[start]
    edge, start = rows_of(call, problem.edge_before)
    opens = finish[start] + problem.edge_lag[edge]
    _never_ahead(draft, anchor.size, demand, (edge, slots.of(opens - anchor[edge]), column[start]))


def one_home_each(draft: Draft, v: Variables) -> None:
    """sum_dj q[c,d,j] = 1, where calls decode without a start."""
    calls, row = np.unique(v.q.call, return_inverse=True)
    draft.rows(calls.size, row, v.q_column, lower=1, upper=1)


def crowding_levels(draft: Draft, v: Variables, problem: Problem, found: Choices) -> None:
    """sum_j m[d,j] = 1;  Y[c,d,j] <= m[d,j];  sum_c Y[c,d,j] <= (uncrowded[d] + highest excess of j) m[d,j].

    Y[c,d,j]: sum_k y[c,d,j,k], or q[c,d,j] where calls decode without a start.
    """
    homes, columns = (v.q, v.q_column) if v.q.call.size else (v.y, v.y_column)
    for d, m in v.m.items():
        draft.rows(1, np.zeros(m.size, dtype=np.int64), m, lower=1, upper=1)
        here, each = np.flatnonzero(homes.replica == d), np.arange(m.size)
        level, column = homes.level[here], columns[here]
        pairs, row = np.unique(homes.call[here] * m.size + level, return_inverse=True)
        one = np.repeat([1.0, -1.0], [here.size, pairs.size])
        row = np.concatenate([row, np.arange(pairs.size)])
        draft.rows(pairs.size, row, np.concatenate([column, m[pairs % m.size]]), one, upper=0)
        factor = np.concatenate([np.ones(here.size), -(problem.uncrowded_calls[d] + found.crowding.highest(d))])
        draft.rows(m.size, np.concatenate([level, each]), np.concatenate([column, m]), factor, upper=0)

    def fill(values: Floats) -> None:
        for d, m in v.m.items():
            count = int(values[columns[homes.replica == d]].sum())
            values[m] = np.arange(m.size) == found.crowding.level(d, count - int(problem.uncrowded_calls[d]))

    draft.fills.append(fill)


def within_caps(draft: Draft, v: Variables, problem: Problem, slots: Slots) -> None:
    """The cost under each cap's objective, written as in `minimise_cost`, is at most its limit."""
    for objective, limit in problem.caps:
        column, factor, constant = cost_of(draft, problem, objective, *_finishing(v), v.q, v.q_column, slots)
        draft.rows(1, np.zeros(column.size, dtype=np.int64), column, factor, upper=limit - constant)


def minimise_cost(draft: Draft, v: Variables, problem: Problem, slots: Slots) -> None:
    """min (sum | max)_w f_w(F_w) + sum_c call_weight[c] finish_c, as `cost_of` writes it."""
    column, factor, constant = cost_of(draft, problem, problem.objective, *_finishing(v), v.q, v.q_column, slots)
    draft.cost(column, factor)
    draft.offset += constant


def _finishing(v: Variables) -> tuple[Ints, Ints, Ints]:
    """(columns, calls, earliest finishes), by call: the stage whose start tells when the call is done."""
    follows = np.flatnonzero(~np.isin(v.x.call, v.y.call))  # prefills of calls without decode starts
    column = np.concatenate([v.x_column[follows], v.y_column])
    call = np.concatenate([v.x.call[follows], v.y.call])
    finish = np.concatenate([v.x.finish[follows], v.y.finish])
    by_call = np.argsort(call, kind="stable")
    return column[by_call], call[by_call], finish[by_call]


def _groups(
    v: Variables, problem: Problem, found: Choices, slot_ticks: int
) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """(calls [G], transfer ticks [G, P], decode replicas [G, D]) of `decode_after_arrival`."""
    calls: list[int] = []
    members: list[npt.NDArray[np.bool_]] = []
    for c in np.intersect1d(v.x.call, v.y.call).tolist():
        kept = np.flatnonzero(found.kept[c])
        _, group = np.unique(found.lag[c][:, kept] // slot_ticks, axis=1, return_inverse=True)
        sets = [kept] + [kept[group == g] for g in range(group.max() + 1) if group.max()]
        members += [np.isin(np.arange(problem.num_decode), inside) for inside in sets]
        calls += [c] * len(sets)
    inside = np.array(members, dtype=np.bool_).reshape(len(calls), problem.num_decode)
    far = int(found.lag.max(initial=0))
    return np.array(calls, dtype=np.int64), np.where(inside[:, None, :], found.lag[calls], far).min(axis=2), inside


def _never_ahead(
    draft: Draft, num_blocks: int, demand: tuple[Ints, Ints, Ints], supply: tuple[Ints, Ints, Ints]
) -> None:
    """Block by block, at every point: sum of demand columns so far <= sum of supply columns so far, both at most 1.

    Both are (block, point, column). What has been supplied and not yet asked for is a running sum within [0, 1].
    """
    first, last = (edge(demand[0], demand[1], num_blocks) for edge in (least, most))
    useful = np.flatnonzero(supply[1] <= last[supply[0]])
    block, point, column = (np.concatenate([d, s[useful]]) for d, s in zip(demand, supply, strict=True))
    owner, _ = ragged(first, last)
    entry = np.searchsorted(owner, block) + np.maximum(point - first[block], 0)
    draft.running_sums(owner, entry, column, np.repeat([-1.0, 1.0], [demand[0].size, useful.size]), 1.0)


def _decode(v: Variables, problem: Problem, values: Floats, is_exact: bool) -> Decision:
    """Starts as they are if exact. Else calls in the order of their mean starts, on the replicas with the largest
    shares, or on each call's quickest ones for one stage or both, whichever is cheapest."""
    n = problem.num_calls
    replica, start, mean = np.full((2, n), CHOOSE), np.full((2, n), -1), np.full((2, n), inf)
    for i, (starts, column) in enumerate(((v.x, v.x_column), (v.y, v.y_column))):
        share = np.maximum(values[column], 0.0)
        placed = _largest_share(starts.call, starts.replica, share, replica[i])
        total, when = (np.bincount(starts.call, weights=w, minlength=n)[placed] for w in (share, share * starts.low))
        mean[i, placed] = when / total
        chosen = np.flatnonzero(share > 0.5)
        start[i, starts.call[chosen]] = starts.low[chosen]
    if is_exact:
        return Decision(replica[0], replica[1], start[0], start[1])
    _largest_share(v.q.call, v.q.replica, np.maximum(values[v.q_column], 0.0), replica[1])
    order = np.lexsort((mean[1], np.where(problem.is_free, mean[0], mean[1])))
    anywhere = np.full(n, CHOOSE)
    pairs = (replica[0], replica[1]), (replica[0], anywhere), (anywhere, anywhere)
    plans = [timetable(problem, order, prefill, decode, compiled=True) for prefill, decode in pairs]
    return min(plans, key=lambda plan: (_broken_caps(problem, plan), cost(problem, plan)))


def _largest_share(call: Ints, replica: Ints, share: Floats, chosen: Ints) -> Ints:
    """The calls with any share; sets chosen[call] to the replica with the largest."""
    shares = np.zeros((chosen.size, int(replica.max(initial=0)) + 1))
    np.add.at(shares, (call, replica), share)
    placed = np.flatnonzero(shares.sum(axis=1) > 0)
    chosen[placed] = shares[placed].argmax(axis=1)
    return placed


def _broken_caps(problem: Problem, decision: Decision) -> int:
    return sum(cost(problem, decision, objective) > limit for objective, limit in problem.caps)


def _encode(draft: Draft, v: Variables, problem: Problem, found: Choices, decision: Decision) -> list[int]:
    values = np.zeros(draft.num_columns)
    excess = np.bincount(decision.decode, minlength=problem.num_decode) - problem.uncrowded_calls
    level = np.array([found.crowding.level(d, n) for d, n in enumerate(excess.tolist())])
    stages = (
        (v.x, v.x_column, decision.prefill, decision.prefill_start, np.zeros(problem.num_prefill, dtype=np.int64)),
        (
            v.y,
            v.y_column,
            decision.decode,
            decision.decode_start,
            np.zeros_like(level) if found.prefill_only else level,
        ),
    )
    for starts, column, replica, start, at in stages:
        tick = start[starts.call]
        match = (replica[starts.call] == starts.replica) & (starts.level == at[starts.replica])
        match &= (starts.low <= tick) & (tick <= starts.high)
        values[column[match]] = 1.0
        missing = np.setdiff1d(starts.call, starts.call[match])
        if missing.size:
            c = int(missing[0])
            raise ValueError(f"call {c} on replica {replica[c]} at {start[c]}: not among the starts of the model")
    at_home = (decision.decode[v.q.call] == v.q.replica) & (level[v.q.replica] == v.q.level)
    values[v.q_column] = at_home
    for c in np.setdiff1d(v.q.call, v.q.call[at_home])[:1].tolist():
        raise ValueError(f"call {c} on decode replica {decision.decode[c]}: not among the homes of the model")
    whole: list[int] = np.rint(draft.completed(values)).astype(np.int64).tolist()
    return whole
