"""A part of a problem as a problem of its own, the rest as an incumbent has it. Knows problems and decisions; knows no
solver and not why just these calls. Proof: models/README.md §4.3.

`head`: the calls go first in every queue, the others come behind them later. What it costs is a guide, no promise.
`group`: the others keep their places and times. A decision that costs less than the incumbent's part costs less by at
least as much in the whole.
"""

from dataclasses import replace
from operator import mul
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hexsolve_models.bounds import workflow_costs
from hexsolve_models.decision import Decision
from hexsolve_models.objective import MAX_COEFFICIENT, Ints, Objective
from hexsolve_models.problem import Problem

Flags = npt.NDArray[np.bool_]


class NoPartError(ValueError):
    """These calls are no part of this problem: their cost alone would not say what the whole costs."""


def head(problem: Problem, incumbent: Decision, calls: npt.ArrayLike) -> Problem:
    """The problem of `calls` with nobody before them; the others count where they slow calls down in a decode batch,
    and their workflows do not end before they do in the incumbent.

    Parameters
    ----------
    calls
        Increasing, at least one. Call i of the result is calls[i].
    """
    inside = _inside(problem, calls)
    return _part(problem, incumbent, inside, problem.decode_ticks, problem.prefill_free_tick)


def group(problem: Problem, incumbent: Decision, calls: npt.ArrayLike) -> Problem:
    """The problem of `calls` while all others stay where and when they are.

    Their decodes become held KV. A decode replica where they would be slowed down by one call more is open only to the
    calls that the incumbent has there already.

    Parameters
    ----------
    calls
        Increasing, at least one: free calls that the incumbent has last in their queues, so usually all of some
        prefill replicas, and any locked ones. Call i of the result is calls[i].

    Raises
    ------
    NoPartError
        If another call prefills behind one of `calls`, or waits for one by an edge; or if the cost is the largest of
        the workflows', and every workflow of `calls` has a step, so that none can stand for the others.
    """
    inside = _inside(problem, calls)
    _check_closed(problem, incumbent, inside)
    others = np.flatnonzero(~inside)
    queued = others[problem.is_free[others]]
    free_tick = problem.prefill_free_tick.copy()
    ends = incumbent.prefill_start[queued] + problem.prefill_ticks[queued, incumbent.prefill[queued]]
    np.maximum.at(free_tick, incumbent.prefill[queued], ends)
    decode_ticks = np.where(_may_come(problem, incumbent, inside), problem.decode_ticks, -1)
    part = _part(problem, incumbent, inside, decode_ticks, free_tick)
    return replace(
        part,
        held_decode=np.concatenate([part.held_decode, incumbent.decode[others]]),
        held_start=np.concatenate([part.held_start, incumbent.decode_start[others]]),
        held_end=np.concatenate([part.held_end, incumbent.decode_finish(problem)[others]]),
        held_blocks=np.concatenate([part.held_blocks, problem.kv_blocks[others]]),
    )


def part_of(decision: Decision, calls: npt.ArrayLike) -> Decision:
    """What a decision says of `calls`: allowed in `head` and `group` if it is allowed in the whole."""
    rows = np.asarray(calls)
    return Decision(
        decision.prefill[rows], decision.decode[rows], decision.prefill_start[rows], decision.decode_start[rows]
    )


def merged(incumbent: Decision, calls: npt.ArrayLike, part: Decision) -> Decision:
    """The incumbent with `calls` as in `part`, a decision of their `group`."""
    rows = np.asarray(calls)
    columns = []
    for field in ("prefill", "decode", "prefill_start", "decode_start"):
        column = getattr(incumbent, field).copy()
        column[rows] = getattr(part, field)
        columns.append(column)
    return Decision(*columns)


def _inside(problem: Problem, calls: npt.ArrayLike) -> Flags:
    rows = np.asarray(calls)
    if rows.size == 0 or (np.diff(rows) <= 0).any() or rows[0] < 0 or rows[-1] >= problem.num_calls:
        raise ValueError(f"calls = {rows.tolist()[:20]}: expected increasing indices in 0..{problem.num_calls - 1}")
    inside = np.zeros(problem.num_calls, dtype=np.bool_)
    inside[rows] = True
    return inside


def _check_closed(problem: Problem, incumbent: Decision, inside: Flags) -> None:
    waits = np.flatnonzero(inside[problem.edge_before] & ~inside[problem.edge_after])
    if waits.size:
        before, after = problem.edge_before[waits[0]], problem.edge_after[waits[0]]
        raise NoPartError(f"calls has {before} but not {after}, which waits for it: expected both or none")
    last_other = np.full(problem.num_prefill, -1, dtype=np.int64)
    others, own = np.flatnonzero(~inside & problem.is_free), np.flatnonzero(inside & problem.is_free)
    np.maximum.at(last_other, incumbent.prefill[others], incumbent.prefill_start[others])
    early = own[incumbent.prefill_start[own] < last_other[incumbent.prefill[own]]]
    if early.size:
        c, p = early[0], incumbent.prefill[early[0]]
        raise NoPartError(
            f"calls has {c} but not one behind it on prefill replica {p}: expected the last of each queue"
        )


def _may_come(problem: Problem, incumbent: Decision, inside: Flags) -> Flags:
    """[N, D]: c decodes there in the incumbent, or nobody outside would notice if all of `calls` came."""
    here = incumbent.decode[:, None] == np.arange(problem.num_decode)
    notices = (here & ~inside[:, None] & (problem.crowding_ticks > 0)).any(axis=0)
    possible = np.where(inside[:, None], problem.decode_allowed, here).sum(axis=0)
    may_come: Flags = here | ~(notices & (possible > problem.uncrowded_calls))
    return may_come


def _part(problem: Problem, incumbent: Decision, inside: Flags, decode_ticks: Ints, prefill_free_tick: Ints) -> Problem:
    calls = np.flatnonzero(inside)
    beside = np.bincount(incumbent.decode[~inside], minlength=problem.num_decode) - problem.uncrowded_calls
    longer = problem.crowding_ticks[calls] * np.maximum(0, beside)
    flows, workflow = np.unique(problem.workflow[calls], return_inverse=True)
    finish = incumbent.decode_finish(problem)
    within = inside[problem.edge_before] & inside[problem.edge_after]
    number = np.cumsum(inside) - 1
    objective, rest = _objective(problem, problem.objective, inside, flows, finish)
    caps = [(_objective(problem, cap, inside, flows, finish), limit) for cap, limit in problem.caps]
    return Problem(
        prefill_ticks=problem.prefill_ticks[calls],
        locked_decode=problem.locked_decode[calls],
        release_tick=_releases(problem, inside, finish)[calls],
        transfer_base_ticks=problem.transfer_base_ticks,
        transfer_rate_ticks=problem.transfer_rate_ticks,
        transfer_blocks=problem.transfer_blocks[calls],
        decode_ticks=np.where(decode_ticks[calls] > 0, decode_ticks[calls] + longer, -1),
        kv_blocks=problem.kv_blocks[calls],
        kv_capacity=problem.kv_capacity,
        prefill_free_tick=prefill_free_tick,
        held_decode=problem.held_decode,
        held_start=problem.held_start,
        held_end=problem.held_end,
        held_blocks=problem.held_blocks,
        workflow=workflow,
        objective=_standing_for(objective, rest),
        crowding_ticks=problem.crowding_ticks[calls],
        uncrowded_calls=np.maximum(0, -beside),
        edge_before=number[problem.edge_before[within]],
        edge_after=number[problem.edge_after[within]],
        edge_lag=problem.edge_lag[within],
        caps=tuple((cap, limit - rest.own - rest.flows) for (cap, rest), limit in caps),
    )


def _releases(problem: Problem, inside: Flags, finish: Ints) -> Ints:
    """[N] releases, calls outside that one waits for included."""
    release = problem.release_tick.copy()
    crossing = ~inside[problem.edge_before] & inside[problem.edge_after]
    done = finish[problem.edge_before[crossing]] + problem.edge_lag[crossing]
    np.maximum.at(release, problem.edge_after[crossing], done)
    return release


class _Rest(NamedTuple):
    """Cost of what is outside. own: of finishes. flows: of workflows without a call inside, if they are added up.
    largest: the largest of those, if that is what counts; None otherwise."""

    own: int
    flows: int
    largest: int | None


def _objective(
    problem: Problem, objective: Objective, inside: Flags, flows: Ints, finish: Ints
) -> tuple[Objective, _Rest]:
    """The objective of the calls inside, with f_w(max(F_w, last finish outside)), and the cost of the rest."""
    last = np.full(problem.num_workflows, -1, dtype=np.int64)
    outside = np.flatnonzero(~inside)
    np.maximum.at(last, problem.workflow[outside], finish[outside] + objective.tail_ticks[outside])
    costs = workflow_costs(objective, last)
    is_late = last > objective.due_tick
    convex = costs - np.where(is_late, objective.late_weight, 0)
    floor_slope = np.where(last >= 0, 0, objective.slope[:, 0])
    floor_intercept = np.where(last >= 0, convex, objective.intercept[:, 0])
    due = np.where(is_late, -MAX_COEFFICIENT, objective.due_tick)
    part = Objective(
        np.column_stack([objective.slope, floor_slope])[flows],
        np.column_stack([objective.intercept, floor_intercept.astype(np.int64)])[flows],
        objective.tail_ticks[inside],
        objective.call_weight[inside],
        objective.aggregate,
        due[flows],
        objective.late_weight[flows],
    )
    own = sum(map(mul, objective.call_weight[outside].tolist(), finish[outside].tolist()))
    beyond = np.delete(costs, flows).tolist()
    if objective.aggregate == "max":
        return part, _Rest(own, 0, max(beyond, default=None))
    return part, _Rest(own, sum(beyond), None)


def _standing_for(objective: Objective, rest: _Rest) -> Objective:
    """Let one workflow cost at least as much as the largest cost outside."""
    if rest.largest is None:
        return objective
    steady = np.flatnonzero((objective.late_weight == 0) | (objective.due_tick == -MAX_COEFFICIENT))
    if not steady.size:
        raise NoPartError(
            "objective: every workflow has a step, so that none can stand for those without a call inside"
        )
    w = int(steady[0])
    slope, intercept = objective.slope[:, 0].copy(), objective.intercept[:, 0].copy()
    slope[w], intercept[w] = 0, rest.largest - int(objective.late_weight[w])
    return replace(
        objective,
        slope=np.column_stack([objective.slope, slope]),
        intercept=np.column_stack([objective.intercept, intercept]),
    )
